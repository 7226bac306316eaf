# SPDX-License-Identifier: Apache-2.0
"""Operators whose results have other axes than their inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of, is_given
from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.operands import move_unary, moving, on_operands, stored_outputs
from burnish.passes.layout.moves.permutation import Perm, inverse, narrowed, places, widened
from burnish.passes.rule import Builder, NoMatch


def move_reduce(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move a reduction, which keeps or removes the axes it is over."""
    one_axis = node.op_type in ("ArgMax", "ArgMin")
    axes = (op.attribute(node, "axis"),) if one_axis else ints_of(node, "axes", 1)
    if axes is None and is_given(node, "axes", 1):
        return NoMatch("the axes are not constant")
    if not axes:
        if not one_axis and op.attribute(node, "noop_with_empty_axes"):
            return move_unary(op, node, perm, forward)
        return Move({0: perm}, {}) if forward else NoMatch("its output has no axes")
    moved, keeps = places(perm, axes), bool(op.attribute(node, "keepdims"))
    if not keeps and not forward:
        return NoMatch("it removes axes")
    after = perm if keeps else narrowed(perm, axes)
    outputs = moving(stored_outputs(node, after))
    if one_axis:
        return Move({0: perm}, outputs, attributes={"axis": moved[0]})
    if "axes" in node.attributes:
        return Move({0: perm}, outputs, attributes={"axes": moved})
    return Move({0: perm}, outputs, constants={1: np.array(moved, dtype=np.int64)})


def move_gather(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Gather of one index, which removes the axis, or of a vector of them."""
    indices = node.inputs[1]
    if indices is None or indices.shape is None or len(indices.shape) > 1:
        return NoMatch("the indices have several axes")
    axis = op.attribute(node, "axis") % len(perm)
    attributes = {"axis": perm.index(axis)}
    if len(indices.shape) == 1:
        return on_operands(node, perm, [0], attributes=attributes)
    if not forward:
        return NoMatch("it removes axes")
    return Move({0: perm}, moving({0: narrowed(perm, [axis])}), attributes=attributes)


def move_squeeze(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Squeeze or Unsqueeze."""
    axes, data, result = ints_of(node, "axes", 1), node.inputs[0], node.outputs[0]
    if axes is None or data is None or data.shape is None or result.shape is None:
        return NoMatch("the axes are not constant, or the rank is unknown")
    narrows = node.op_type == "Squeeze"
    rank = max(len(data.shape), len(result.shape))
    if narrows == forward:  # `perm` is of the tensor with more axes
        moved, wide, narrow = places(perm, axes), perm, narrowed(perm, axes)
    else:
        moved, wide, narrow = sorted(axis % rank for axis in axes), widened(perm, axes, rank), perm
    before, after = (wide, narrow) if narrows else (narrow, wide)
    orders = moving({0: before}), moving({0: after})
    if "axes" in node.attributes:
        return Move(*orders, attributes={"axes": moved})
    return Move(*orders, constants={1: np.array(moved, dtype=np.int64)})


def move_shape(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move Shape: sizes are put back in the order that is asked for."""
    if not forward or any(name in node.attributes for name in ("start", "end")):
        return NoMatch("it asks for some of the sizes")
    return Move({0: perm}, {}, result=inverse(perm))
