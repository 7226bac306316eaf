# SPDX-License-Identifier: Apache-2.0
"""Operators along some of the axes: those are renamed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of, is_given
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import as_array
from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.operands import move_unary, on_operands
from burnish.passes.layout.moves.permutation import Perm
from burnish.passes.rule import Builder, NoMatch


def move_along_axis(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Split or TopK, or what quantizes along an axis."""
    axis = op.attribute(node, "axis")
    if axis is None:
        return NoMatch("the axis is unknown")
    return on_operands(node, perm, [0], attributes={"axis": perm.index(axis % len(perm))})


def move_concat(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Concat, all of whose inputs have its axes."""
    if any(value.shape is None or len(value.shape) != len(perm) for value in node.inputs if value):
        return NoMatch("the rank of an operand is unknown")
    axis = op.attribute(node, "axis") % len(perm)
    attributes = {"axis": perm.index(axis)}
    return on_operands(node, perm, range(len(node.inputs)), attributes=attributes)


def move_softmax(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Softmax, of which the runtime copies the input unless it is over the last axis."""
    last = len(perm) - 1
    axis = op.attribute(node, "axis") % len(perm)
    moved = perm.index(axis)
    if op.opset_imports.get("", 1) < 13 and not axis == moved == last:
        return NoMatch("before opset 13 it is over all axes behind one")
    # The runtime's kernel transposes to the last axis and back.
    copies = (0 if axis == last else 2, 0 if moved == last else 2)
    return on_operands(node, perm, [0], attributes={"axis": moved}, copies=copies)


def move_quantize(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move QuantizeLinear or DequantizeLinear, of one scale or of one along an axis."""
    scale = node.inputs[1]
    if "block_size" in node.attributes and op.attribute(node, "block_size"):
        return NoMatch("its scales are by blocks")
    if scale is None or scale.shape is None:
        return NoMatch("the rank of an operand is unknown")
    if all(dim == 1 for dim in scale.shape):
        return move_unary(op, node, perm, forward)
    return move_along_axis(op, node, perm, forward)


def move_slice(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Slice, whose axes are then named."""
    axes = ints_of(node, "axes", 3)
    if axes is None and not is_given(node, "axes", 3):
        starts = ints_of(node, "starts", 1)
        axes = None if starts is None else tuple(range(len(starts)))
    if axes is None:
        return NoMatch("the axes are not constant")
    moved = [perm.index(axis % len(perm)) for axis in axes]
    if "starts" in node.attributes:
        return on_operands(node, perm, [0], attributes={"axes": moved})
    starts_in = node.inputs[1]
    if starts_in is None or starts_in.dtype is None:
        return NoMatch("the type of the starts is not known")
    # All numbers of a Slice are of one integer type.
    return on_operands(node, perm, [0], constants={3: np.array(moved, starts_in.dtype.numpy())})


def move_pad(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Pad, whose padding is by axes that are named or by all of them."""
    if is_given(node, "axes", 3):
        axes = ints_of(node, "axes", 3)
        if axes is None:
            return NoMatch("the axes are not constant")
        moved = np.array([perm.index(axis % len(perm)) for axis in axes], dtype=np.int64)
        return on_operands(node, perm, [0], constants={3: moved})
    pads = ints_of(node, "pads", 1)
    if pads is None:
        return NoMatch("the padding is not constant")
    ordered = np.array(pads, dtype=np.int64).reshape(2, -1)[:, perm].reshape(-1)
    if "pads" in node.attributes:
        return on_operands(node, perm, [0], attributes={"pads": ordered.tolist()})
    return on_operands(node, perm, [0], constants={1: ordered})


def move_resize(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Resize where it scales the last two axes afterwards."""
    rank, data, result = len(perm), node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or result.shape is None or len(node.inputs) < 2:
        return NoMatch("the rank of an operand is unknown")
    pairs = enumerate(zip(data.shape.dims, result.shape.dims, strict=True))
    scaled = [axis for axis, (before, after) in pairs if not same_dim(before, after)]
    if any(perm.index(axis) < rank - 2 for axis in scaled):
        return NoMatch("the runtime resizes any but the last two axes slowly")
    roi = node.inputs[1]
    if roi is not None and not (roi.shape is not None and 0 in roi.shape.dims):
        return NoMatch("it crops")
    axes = op.attribute(node, "axes") if "axes" in node.attributes else None
    if axes:
        moved = [perm.index(axis % rank) for axis in axes]
        return on_operands(node, perm, [0], attributes={"axes": moved})
    given = {i: value for i, value in enumerate(node.inputs) if i > 1 and not _is_empty(value)}
    arrays = {i: array for i, value in given.items() if (array := as_array(value)) is not None}
    return on_operands(
        node,
        perm,
        [0],
        constants={index: array[list(perm)] for index, array in arrays.items()},
        gathered=dict.fromkeys(given.keys() - arrays.keys(), perm),
    )


def _is_empty(value: ir.Value | None) -> bool:
    return value is None or (value.shape is not None and 0 in value.shape.dims)
