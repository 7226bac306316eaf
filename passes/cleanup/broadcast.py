# SPDX-License-Identifier: Apache-2.0
"""What is broadcast to the shape of another operand, though the operator would do that itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.cleanup.views import goes
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, rule


def _expanded(op: Any, condition: Any, x: Any) -> Any:
    return op.Expand(condition, op.Shape(x, _bind="shape", _shared=True), _shared=True)


@rule
def expand_before_where(op: Any, condition: Any, x: Any, fill: Any) -> Any:
    """Where(Expand(c, shape of x), x, fill) -> Where(c, x, fill), as masked_fill is written."""
    return op.Where(_expanded(op, condition, x), x, fill, _bind="where")


@expand_before_where.also
def _(op: Any, condition: Any, x: Any, fill: Any) -> Any:
    return op.Where(_expanded(op, condition, x), fill, x, _bind="where")


@expand_before_where.rewrite
def _(op: Builder, condition: Operand, where: ir.Node, shape: ir.Node) -> Replacement:
    if op.attribute(shape, "start") or op.attribute(shape, "end") is not None:
        return NoMatch("not to the whole shape")
    return op.Where(condition, *where.inputs[1:])


_BINARY = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Less", "Greater"),
    *("LessOrEqual", "GreaterOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"),
)
_BROADCASTING = frozenset({*_BINARY, "Where"})


@rule
def expand_before_operator(op: Any, x: Any, shape: Any, other: Any) -> Any:
    """Op(Expand(x, shape), y) -> Op(x, y) where y has the sizes that the Expand gives."""
    wide = op.Expand(x, shape, _bind="expand", _shared=True)
    return op.one_of(*_BINARY)(wide, other, _bind="node")


@expand_before_operator.also
def _(op: Any, x: Any, shape: Any, other: Any) -> Any:
    wide = op.Expand(x, shape, _bind="expand", _shared=True)
    return op.one_of(*_BINARY)(other, wide, _bind="node")


@expand_before_operator.also
def _(op: Any, x: Any, shape: Any, one: Any, other: Any) -> Any:
    wide = op.Expand(x, shape, _bind="expand", _shared=True)
    return op.Where(wide, one, other, _bind="node")


@expand_before_operator.also
def _(op: Any, x: Any, shape: Any, one: Any, other: Any) -> Any:
    wide = op.Expand(x, shape, _bind="expand", _shared=True)
    return op.Where(one, wide, other, _bind="node")


@expand_before_operator.also
def _(op: Any, x: Any, shape: Any, one: Any, other: Any) -> Any:
    wide = op.Expand(x, shape, _bind="expand", _shared=True)
    return op.Where(one, other, wide, _bind="node")


@expand_before_operator.rewrite
def _(op: Builder, x: Operand, expand: ir.Node, node: ir.Node) -> Replacement:
    wide, result = expand.outputs[0], node.outputs[0]
    if not goes(expand, _BROADCASTING):
        return NoMatch("other operators need it broadcast")
    inputs = [x.value if value is wide else value for value in node.inputs]
    if not _broadcast_to(inputs, result):
        return NoMatch("the result is not known to be as large without it")
    return op.like(node, *inputs)


def _broadcast_to(inputs: Sequence[ir.Value | None], result: ir.Value) -> bool:
    """Whether values are known to be broadcast to the shape of another.

    They are, if each of its axes is one of theirs, since no operand of it is larger than that.
    """
    shapes = [value.shape for value in inputs if value is not None]
    if result.shape is None or any(shape is None for shape in shapes):
        return False
    theirs = [shape.dims[::-1] for shape in shapes if shape is not None]
    return all(
        any(axis < len(dims) and same_dim(dims[axis], dim) for dims in theirs)
        for axis, dim in enumerate(result.shape.dims[::-1])
    )


RULES: tuple[Rule, ...] = (expand_before_where, expand_before_operator)
