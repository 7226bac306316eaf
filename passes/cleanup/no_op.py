# SPDX-License-Identifier: Apache-2.0
"""Operators that, as they are used, only pass their input on."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.arguments import (
    TO_THE_END,
    bounds_of,
    cast_target,
    has_reference,
    ints_of,
)
from burnish.passes.cleanup.dims import same_shape
from burnish.passes.constant import as_array
from burnish.passes.pattern import const
from burnish.passes.rule import NoMatch, Operand, rule


@rule
def identity(op: Any, x: Any) -> Any:
    """Identity(x) -> x."""
    return op.Identity(x, _bind="node")


@identity.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    producer = x.value.producer()
    if node.outputs[0].is_graph_output() and (
        producer is None or producer.graph is not node.graph or x.value.is_graph_output()
    ):
        return NoMatch("an output of the graph needs a node of its own")
    return x


@rule(opset=(7, None))  # before, Dropout trains unless told otherwise
def dropout(op: Any, x: Any) -> Any:
    """Dropout(x) -> x at inference, unless the mask is used."""
    return op.Dropout(x, _more=True, _bind="node")


@dropout.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None:
        training = as_array(mode)
        if training is None or training.any():
            return NoMatch("it may be training")
    return x


@rule
def cast_to_same(op: Any, x: Any) -> Any:
    """Cast(x) -> x where x has that type already."""
    return op.one_of("Cast", "CastLike")(x, _more=True, _bind="node")


@cast_to_same.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    target = cast_target(node)
    if x.dtype is None or target is None or x.dtype != target:
        return NoMatch("the type changes or is not known")
    return x


@rule(opset=(5, None))
def reshape_to_same(op: Any, x: Any) -> Any:
    """Reshape(x, shape of x) -> x; Flatten, Squeeze, Unsqueeze, Expand and Tile likewise."""
    views = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile")
    return op.one_of(*views)(x, _more=True, _bind="node")


@reshape_to_same.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    if has_reference(node):
        return NoMatch("an attribute comes from the function's caller")
    wanted = ints_of(node, "", 1)
    if node.op_type == "Reshape" and wanted is not None:
        same = _reshapes_to_itself(x, wanted, node)
    elif node.op_type == "Expand":
        same = wanted is not None and _expands_to_itself(x, wanted)
    else:
        same = same_shape(x.value, node.outputs[0])
    return x if same else NoMatch("the shape changes or is not known")


def _reshapes_to_itself(x: Operand, wanted: tuple[int, ...], node: ir.Node) -> bool:
    """Whether a constant target is x's own shape; no symbol has to be trusted for that."""
    dims = x.dims
    if dims is None or len(dims) != len(wanted):
        return False
    allowzero = node.attributes.get_int("allowzero", 0) == 1
    open_axes = [
        axis
        for axis, (dim, target) in enumerate(zip(dims, wanted, strict=True))
        if dim != target and (target != 0 or allowzero)
    ]
    # All but one agree, so the -1 can only be the size that is there.
    return not open_axes or (len(open_axes) == 1 and wanted[open_axes[0]] == -1)


def _expands_to_itself(x: Operand, wanted: tuple[int, ...]) -> bool:
    """Whether every size of a constant target is 1 or x's own."""
    dims = x.dims
    if dims is None or len(dims) < len(wanted):
        return False
    tail = dims[len(dims) - len(wanted) :]
    return all(size in (1, dim) for size, dim in zip(wanted, tail, strict=True))


@rule
def transpose_to_same(op: Any, x: Any) -> Any:
    """Transpose(x) -> x where every axis stays in its place."""
    return op.Transpose(x, _bind="node")


@transpose_to_same.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    perm = ints_of(node, "perm", 1)
    if has_reference(node):
        return NoMatch("an attribute comes from the function's caller")
    if perm is None and (x.rank is None or x.rank > 1):
        return NoMatch("the axes move")
    if perm is not None and perm != tuple(range(len(perm))):
        return NoMatch("the axes move")
    return x


@rule
def slice_everything(op: Any, x: Any) -> Any:
    """Slice(x) -> x where it leaves nothing out."""
    return op.Slice(x, _more=True, _bind="node")


@slice_everything.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    bounds = bounds_of(node, x.rank)
    if bounds is None:
        return NoMatch("the bounds are not constant")
    for axis, (start, end, step) in bounds.items():
        size = None if x.dims is None or axis >= len(x.dims) else x.dims[axis]
        reach = size if isinstance(size, int) else TO_THE_END
        if step != 1 or start != 0 or end < reach:
            return NoMatch("it leaves something out")
    return x


@rule
def pad_nothing(op: Any, x: Any) -> Any:
    """Pad(x, 0) -> x."""
    return op.Pad(x, _more=True, _bind="node")


@pad_nothing.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    pads = ints_of(node, "pads", 1) or ints_of(node, "paddings", 1)
    if pads is None or has_reference(node):
        return NoMatch("the padding is not constant")
    return x if not any(pads) else NoMatch("it pads")


@rule
def combine_one(op: Any, x: Any) -> Any:
    """Concat(x) -> x; Sum, Mean, Max and Min of a single input likewise."""
    return op.one_of("Concat", "Sum", "Mean", "Max", "Min")(x)


@combine_one.rewrite
def _(op: Any, x: Operand) -> Any:
    return x


@rule
def split_into_one(op: Any, x: Any) -> Any:
    """Split(x) -> x where there is but one part."""
    return op.Split(x, _more=True, _bind="node")


@split_into_one.rewrite
def _(op: Any, x: Operand, node: ir.Node) -> Any:
    if len(node.outputs) > 1:
        return NoMatch("there are several parts")
    return x


@rule
def where_decided(op: Any, x: Any, y: Any, condition: Any = const()) -> Any:
    """Where(True, x, y) -> x and Where(False, x, y) -> y, where no broadcasting is left to do."""
    return op.Where(condition, x, y, _bind="node")


@where_decided.rewrite
def _(op: Any, condition: Operand, x: Operand, y: Operand, node: ir.Node) -> Any:
    array = condition.array
    if array is None or array.size == 0 or (array.any() and not array.all()):
        return NoMatch("the condition is mixed")
    chosen = x if array.any() else y
    if not same_shape(chosen.value, node.outputs[0]):
        return NoMatch("the result is broadcast")
    return chosen


RULES = (
    identity,
    dropout,
    cast_to_same,
    reshape_to_same,
    transpose_to_same,
    slice_everything,
    pad_nothing,
    combine_one,
    split_into_one,
    where_decided,
)
