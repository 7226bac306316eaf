# SPDX-License-Identifier: Apache-2.0
"""Two of a kind in a row that do the work of one: Transpose, Cast, Slice, and their own undoing."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.arguments import (
    bounds_of,
    cast_target,
    has_reference,
    ints_of,
    with_bounds,
)
from burnish.passes.cleanup.views import goes
from burnish.passes.rule import NoMatch, Operand, Rule, rule


@rule
def transpose_transpose(op: Any, x: Any) -> Any:
    """Transpose(Transpose(x)) -> Transpose(x), or x if the axes are back where they were."""
    return op.Transpose(op.Transpose(x, _bind="inner"), _bind="outer")


@transpose_transpose.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if has_reference(inner) or has_reference(outer):
        return NoMatch("an attribute comes from the function's caller")
    first, second = ints_of(inner, "perm", 1), ints_of(outer, "perm", 1)
    if first is None and second is None:
        return x
    rank = len(first or second or ())
    reverse = tuple(reversed(range(rank)))
    perm = [(first or reverse)[axis] for axis in (second or reverse)]
    return x if perm == list(range(rank)) else op.Transpose(x, perm=perm)


@rule(opset=(6, None))
def cast_cast(op: Any, x: Any) -> Any:
    """Cast(Cast(x)) -> Cast(x) where the first one loses nothing."""
    return op.Cast(op.Cast(x, _bind="inner"), _bind="outer")


@cast_cast.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    source, between, target = x.dtype, cast_target(inner), cast_target(outer)
    if source is None or between is None or target is None:
        return NoMatch("a type is not known")
    if not _holds(between, source):
        return NoMatch("the first Cast rounds or wraps")
    if target == source:
        return x
    # Past the range of an integer, the result depends on the type it comes from.
    if target.is_integer() and source.is_integer() != between.is_integer():
        return NoMatch("the type in between decides what out of range becomes")
    if target.is_integer() and source.is_floating_point():
        return NoMatch("the type in between decides what out of range becomes")
    return op.like(outer, x)


# Bits of the significand and of the largest exponent: what a floating-point type holds exactly.
_FLOATS = {"FLOAT16": (11, 5), "BFLOAT16": (8, 8), "FLOAT": (24, 8), "DOUBLE": (53, 11)}


def _holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every value of one type is a value of the other."""
    if wide == narrow:
        return True
    if narrow == ir.DataType.BOOL:
        return wide.is_integer() or wide.name in _FLOATS
    if narrow.is_integer():
        bits = narrow.bitwidth - (1 if narrow.is_signed() else 0)
        if wide.is_integer():
            spare = wide.bitwidth - (1 if wide.is_signed() else 0)
            return spare >= bits and (wide.is_signed() or not narrow.is_signed())
        return wide.name in _FLOATS and _FLOATS[wide.name][0] >= bits
    if narrow.name in _FLOATS and wide.name in _FLOATS:
        pairs = zip(_FLOATS[wide.name], _FLOATS[narrow.name], strict=True)
        return all(more >= less for more, less in pairs)
    return False


@rule
def slice_slice(op: Any, x: Any) -> Any:
    """Slice(Slice(x)) -> Slice(x), on different axes or on the same one."""
    inner = op.Slice(x, _more=True, _bind="inner", _shared=True)
    return op.Slice(inner, _more=True, _bind="outer")


@slice_slice.rewrite
def _(op: Any, x: Operand, inner: ir.Node, outer: ir.Node) -> Any:
    if not goes(inner, ("Slice",)):
        return NoMatch("other operators need the first one")
    first, second = bounds_of(inner, x.rank), bounds_of(outer, x.rank)
    if first is None or second is None or min((*first, *second, 0)) < 0:
        return NoMatch("the bounds are not constant")
    merged = dict(first)
    for axis, window in second.items():
        both = _within(first[axis], window) if axis in first else window
        if both is None:
            return NoMatch("bounds of one axis count from its end")
        merged[axis] = both
    return with_bounds(op, x, merged)


def _within(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> tuple[int, int, int] | None:
    """Return the window of `second` in what is left of an axis by `first`."""
    if first[2] != 1 or second[2] != 1 or min(*first[:2], *second[:2]) < 0:
        return None
    start = first[0] + second[0]
    return start, max(start, min(first[0] + second[1], first[1])), 1


def _twice(op_type: str) -> Rule:
    def pattern(op: Any, x: Any) -> Any:
        return op.one_of(op_type)(op.one_of(op_type)(x))

    pattern.__doc__ = f"{op_type}({op_type}(x)) -> {_UNDONE.get(op_type, f'{op_type}(x)')}."
    made = rule(name=f"{op_type}-{op_type}".lower())(pattern)

    @made.rewrite
    def _(op: Any, x: Operand) -> Any:
        return x if op_type in _UNDONE else op.node(op_type, [x], {})

    return made


_UNDONE = dict.fromkeys(("Neg", "Not"), "x")
_DONE_ONCE = ("Abs", "Ceil", "Floor", "Relu", "Round")

RULES = (
    transpose_transpose,
    cast_cast,
    slice_slice,
    *map(_twice, (*_UNDONE, *_DONE_ONCE)),
)
