# SPDX-License-Identifier: Apache-2.0
"""Picking one of an axis, or a part that was just put there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import TO_THE_END, bounds_of, ints_of, with_bounds
from burnish.passes.cleanup.views import goes
from burnish.passes.pattern import const, variadic
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, rule

_END = np.iinfo(np.int64).max  # all that is left, where one is written


@rule
def slice_squeeze(op: Any, x: Any) -> Any:
    """Squeeze(Slice(x, i, i + 1, axis), axis) -> Gather(x, i, axis), as unbind is exported."""
    return op.Squeeze(op.Slice(x, _more=True, _bind="cut"), _more=True, _bind="squeeze")


@slice_squeeze.rewrite
def _(op: Builder, x: Operand, cut: ir.Node, squeeze: ir.Node) -> Replacement:
    maker = x.value.producer()
    if maker is not None and maker.op_type == "Transpose":  # CoaT-Lite is 2% slower without
        return NoMatch("the runtime moves the Transpose before it through Slice, not Gather")
    bounds, axes = bounds_of(cut, x.rank), ints_of(squeeze, "axes", 1)
    if bounds is None or axes is None:
        return NoMatch("the bounds or axes are not constant")
    if len(bounds) != 1 or len(axes) != 1 or x.rank is None:
        return NoMatch("not of one axis, or the rank is unknown")
    ((axis, (start, end, step)),) = bounds.items()
    if axes[0] % x.rank != axis:
        return NoMatch("the axes differ")
    last = start == -1 and end >= TO_THE_END
    if step != 1 or not (last or (end == start + 1 and end != 0)):
        return NoMatch("not one element")
    return op.Gather(x, np.array(start), axis=axis)


@rule
def unsqueeze_gather(op: Any, x: Any, index: Any = const(lambda array: array.ndim == 0)) -> Any:
    """Unsqueeze(Gather(x, i, axis), axis) -> Gather(x, [i], axis)."""
    one = op.Gather(x, index, _bind="gather", _shared=True)
    return op.Unsqueeze(one, _more=True, _bind="unsqueeze")


@unsqueeze_gather.rewrite
def _(op: Builder, x: Operand, index: Operand, gather: ir.Node, unsqueeze: ir.Node) -> Replacement:
    axes, axis = ints_of(unsqueeze, "axes", 1), op.attribute(gather, "axis")
    if axes is None or len(axes) != 1 or x.rank is None:
        return NoMatch("not one known axis, or the rank is unknown")
    if axes[0] % x.rank != axis % x.rank:
        return NoMatch("the axes differ")
    users = [user for user, _ in gather.outputs[0].uses()]
    if not goes(gather, ("Unsqueeze",)) or any(ints_of(user, "axes", 1) != axes for user in users):
        return NoMatch("other operators need it without the axis")
    assert index.array is not None
    return op.Gather(x, index.array.reshape(1), axis=axis)


@rule
def slice_of_concat(op: Any, parts: Any = variadic()) -> Any:
    """Slice(Concat(parts)) -> Slice(part), or the part itself, where it takes from one only."""
    return op.Slice(op.Concat(parts, _bind="concat", _shared=True), _more=True, _bind="cut")


@slice_of_concat.rewrite
def _(op: Builder, parts: Sequence[Operand], concat: ir.Node, cut: ir.Node) -> Replacement:
    rank = parts[0].rank
    bounds = None if rank is None else bounds_of(cut, rank)
    if rank is None or bounds is None:
        return NoMatch("the bounds are not constant, or the rank is unknown")
    axis = op.attribute(concat, "axis") % rank
    start, end, step = bounds.pop(axis, (0, _END, 1))
    sizes = [part.dims[axis] if part.dims is not None else None for part in parts]
    if step < 1:
        return NoMatch("it goes backwards")
    found = _inside(start, end, sizes)
    if found is None:
        return NoMatch("it takes from several parts, or sizes are unknown")
    place, first, last = found
    if (first, last, step) != (0, sizes[place], 1) and last is not None:
        bounds[axis] = first, last, step
    elif first or step > 1:
        bounds[axis] = first, _END, step
    return with_bounds(op, parts[place], bounds) if bounds else parts[place]


def _inside(start: int, end: int, sizes: Sequence[Any]) -> tuple[int, int, int | None] | None:
    """Return which part a window lies in, and where there; None as end is the part's own end.

    The window counts from the front; sizes behind its part need not be known, nor that of the last
    part, if the window goes to the end.
    """
    if start < 0 or end < 0:
        return None
    before = 0
    for place, size in enumerate(sizes):
        if place == len(sizes) - 1 and end >= TO_THE_END and start >= before:
            return place, start - before, None
        if not isinstance(size, int):
            return None
        if start < before + size:
            inside = end <= before + size
            return (place, start - before, end - before) if inside and start < end else None
        before += size
    return None


RULES: tuple[Rule, ...] = (slice_squeeze, unsqueeze_gather, slice_of_concat)
