# SPDX-License-Identifier: Apache-2.0
"""Chains of operators that only look at the same elements under another shape."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import has_reference, ints_of, with_axes
from burnish.passes.cleanup.dims import same_dim, target_of
from burnish.passes.rule import NoMatch, Operand, rule

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@rule
def unsqueeze_squeeze(op: Any, x: Any) -> Any:
    """Squeeze(Unsqueeze(x, axes), axes) -> x, and the other way around."""
    pair = ("Squeeze", "Unsqueeze")
    inner = op.one_of(*pair)(x, _more=True, _bind="inner")
    return op.one_of(*pair)(inner, _more=True, _bind="outer")


@unsqueeze_squeeze.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if inner.op_type == outer.op_type:
        return NoMatch("the axes add up")
    axes = _axes(inner), _axes(outer)
    if None in axes or axes[0] != axes[1]:
        return NoMatch("the axes differ")
    return x


@rule
def unsqueeze_unsqueeze(op: Any, x: Any) -> Any:
    """Unsqueeze(Unsqueeze(x)) -> Unsqueeze(x) with the axes of both."""
    inner = op.Unsqueeze(x, _more=True, _bind="inner", _shared=True)
    return op.Unsqueeze(inner, _more=True, _bind="outer")


@unsqueeze_unsqueeze.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if not goes(inner, (outer.op_type,)):
        return NoMatch("other operators need the first one")
    first, second = _axes(inner), _axes(outer)
    if first is None or second is None:
        return NoMatch("axes are negative or not constant")
    return with_axes(op, "Unsqueeze", x, _combined(first, second))


@rule
def squeeze_squeeze(op: Any, x: Any) -> Any:
    """Squeeze(Squeeze(x)) -> Squeeze(x) with the axes of both."""
    inner = op.Squeeze(x, _more=True, _bind="inner", _shared=True)
    return op.Squeeze(inner, _more=True, _bind="outer")


@squeeze_squeeze.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if not goes(inner, (outer.op_type,)):
        return NoMatch("other operators need the first one")
    first, second = _axes(inner), _axes(outer)
    if first is None or second is None:
        return NoMatch("axes are negative or not constant")
    # Undoing Squeeze is Unsqueeze, in reverse order.
    return with_axes(op, "Squeeze", x, _combined(second, first))


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """Return the axes in ascending order, if they are known without knowing the rank."""
    axes = ints_of(node, "axes", 1)
    if axes is None or min(axes, default=0) < 0:
        return None
    return tuple(sorted(axes))


def _combined(first: tuple[int, ...], second: tuple[int, ...]) -> list[int]:
    """Return where the axes inserted at `first` and then at `second` stand in the end.

    Inserting at `second` pushes each axis that is already there behind those before it.
    """
    highest = max(first, default=0) + len(second) + 1
    places = [axis for axis in range(highest) if axis not in second]
    return sorted([*second, *(places[axis] for axis in first)])


@rule(opset=(5, None))
def reshape_reshape(op: Any, x: Any) -> Any:
    """Reshape(Reshape(x)) -> Reshape(x); Flatten, Squeeze and Unsqueeze likewise."""
    inner = op.one_of(*_VIEWS)(x, _more=True, _bind="inner", _shared=True)
    return op.one_of(*_VIEWS)(inner, _more=True, _bind="outer")


@reshape_reshape.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if has_reference(inner) or has_reference(outer):
        return NoMatch("an attribute comes from the function's caller")
    if not goes(inner, _VIEWS):
        return NoMatch("other operators need the first one")
    shape = ints_of(outer, "", 1) if outer.op_type == "Reshape" else None
    if shape is not None and op.attribute(outer, "allowzero"):
        return op.Reshape(x, np.array(shape, dtype=np.int64), allowzero=1)
    target = (
        target_of(x.value, outer.outputs[0])
        if shape is None
        else _without_copies(x.value, inner.outputs[0], shape)
    )
    if isinstance(target, str):
        return NoMatch(target)
    return op.Reshape(x, np.array(target, dtype=np.int64))


def _without_copies(data: ir.Value, between: ir.Value, shape: tuple[int, ...]) -> list[int] | str:
    """Return a target for `data` instead of `between`, whose sizes a 0 used to copy."""
    target: list[int] = []
    for axis, size in enumerate(shape):
        if size != 0:
            target.append(size)
            continue
        if between.shape is None:
            return "the shape in between is not known"
        copied = between.shape[axis]
        if isinstance(copied, int) and copied != 0:
            target.append(copied)
        elif (
            data.shape is not None and axis < len(data.shape) and same_dim(data.shape[axis], copied)
        ):
            target.append(0)
        else:
            return "it copies a size that only the shape in between has"
    return target


def goes(node: ir.Node, users: Collection[str]) -> bool:
    """Whether a node with one output is read by operators of these types alone."""
    value = node.outputs[0]
    return not value.is_graph_output() and all(user.op_type in users for user, _ in value.uses())


RULES = (
    unsqueeze_squeeze,
    unsqueeze_unsqueeze,
    squeeze_squeeze,
    reshape_reshape,
)
