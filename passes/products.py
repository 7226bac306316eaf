# SPDX-License-Identifier: Apache-2.0
"""Arithmetic with sizes that are products, or what convolutions leave of one name: without SymPy.

Most sizes are a number, a name, or a product of both. Most of what is computed with them is what
Reshape makes of -1, a window that slides (some numbers are added, and one divides), or a table that
is cut. Cancelling names takes microseconds; SymPy takes up to milliseconds, and a fifth of a second
to load.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import onnx_ir as ir

Size = int | ir.SymbolicDim

# As onnx-ir reads them: PaddlePaddle writes "DynamicDimension.0". Not those of functions.
_NAME = re.compile(r"[^\W\d][\w.]*(?![\w.(])")

_Product = tuple[int, tuple[str, ...]]  # a number, and names


def product(sizes: Sequence[Size]) -> Size | None:
    """Multiply sizes; None if one is not a product, or a name occurs twice."""
    made: Size | None = 1
    for size in sizes:  # whether 2*(a + 1) is multiplied out depends on what comes first
        made = _multiplied(made, size)
    return made


def _multiplied(size: Size | None, other: Size) -> Size | None:
    one, two = _read(size), _read(other)
    if one is None or two is None or {*one[1]} & {*two[1]}:
        return None
    return _size(one[0] * two[0], (*one[1], *two[1]))


def quotient(size: Size, divisor: Size) -> Size | None:
    """Divide sizes; None if one is not a product, or something of the divisor is left."""
    if divisor == 1 and _is_minimum(size):
        return size
    above, below = _read(size), _read(divisor)
    if above is None or below is None or below[0] <= 0 or above[0] % below[0]:
        return None
    if not set(below[1]) <= set(above[1]):
        return None
    return _size(above[0] // below[0], [name for name in above[1] if name not in below[1]])


def largest(*sizes: Size) -> Size | None:
    """Return the larger of what is not negative and numbers below 1; None in all other cases."""
    symbols = [size for size in sizes if not isinstance(size, int)]
    if len(symbols) != 1 or any(size > 0 for size in sizes if isinstance(size, int)):
        return None
    if _is_minimum(symbols[0]):
        return symbols[0]
    shifted = _read_shifted(symbols[0].value or "")
    if shifted is not None and shifted[2] >= 0 and _is_not_negative(shifted[1]):
        return symbols[0]
    read = _read(symbols[0])
    if read is None or read[0] <= 0 or not all(map(_NAME.fullmatch, read[1])):
        return None
    return symbols[0]


def smallest(*sizes: Size) -> Size | None:
    """Write the smaller of a name and another, of a name and a number above 1, or of a and a + 1.

    None in all other cases.
    """
    if len(sizes) != 2:
        return None
    sums = [None if isinstance(size, int) else _read_sum(size.value or "") for size in sizes]
    if sums[0] is not None and sums[1] is not None and sums[0][:2] == sums[1][:2]:
        return sizes[0] if sums[0][2] <= sums[1][2] else sizes[1]
    numbers = [size for size in sizes if isinstance(size, int)]
    names = sorted({size.value or "" for size in sizes if not isinstance(size, int)})
    if not all(map(_NAME.fullmatch, names)) or min(numbers, default=2) < 2 or not names:
        return None
    if len(names) + len(numbers) == 1:
        return sizes[0]
    return ir.SymbolicDim(f"Min({', '.join([*map(str, numbers), *names])})")


_MINIMUM = re.compile(rf"Min\((?:\d+|{_NAME.pattern}), {_NAME.pattern}\)")


def _is_minimum(size: Size) -> bool:
    return isinstance(size, ir.SymbolicDim) and _MINIMUM.fullmatch(size.value or "") is not None


def quicken(utilities: Any) -> None:
    """Try these functions first, in the utilities of the shape inference library and in onnx-ir.

    The results are those of SymPy, to the letter.
    """
    for owner, name, quick in (
        (utilities, "dim_product", product),
        (utilities, "floor_div_dim", quotient),
        (utilities, "ceil_div_dim", quotient),
        (utilities, "max_dim", largest),
        (utilities, "min_dim", smallest),
        (ir.SymbolicDim, "__add__", _plus),
        (ir.SymbolicDim, "__sub__", _minus),
        (ir.SymbolicDim, "__mul__", _times),
        (ir.SymbolicDim, "__floordiv__", _over),
        (ir.SymbolicDim, "__truediv__", _exactly_over),
        (ir.SymbolicDim, "__ceil__", _whole),
        (ir.SymbolicDim, "__neg__", _negated),
        (ir.SymbolicDim, "free_symbols", _names),
        (ir.SymbolicDim, "evaluate", _value),
    ):
        setattr(owner, name, _first(quick, getattr(owner, name)))


def _first(quick: Callable[..., Any], slow: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(slow)
    def either(*arguments: Any) -> Any:
        found = quick(*arguments)
        return slow(*arguments) if found is None else found

    return either


def _plus(size: ir.SymbolicDim, other: Any) -> Size | None:
    """Add a number."""
    if not isinstance(other, int):
        return None
    if other == 0:
        return size
    read = _read_sum(size.value or "")
    return None if read is None else _shifted(read[0], read[1], read[2] + other)


def _minus(size: ir.SymbolicDim, other: Any) -> Size | None:
    """Take a number away."""
    return _plus(size, -other) if isinstance(other, int) else None


def _times(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(product((size, other))) if isinstance(other, int | ir.SymbolicDim) else None


def _over(size: ir.SymbolicDim, other: Any) -> Size | None:
    if not isinstance(other, int | ir.SymbolicDim):
        return None
    found = _symbol(quotient(size, other))
    if found is None and isinstance(other, int):
        found = _stepped(size, other)
    return _rounded(size, other) if found is None else found


def _exactly_over(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(quotient(size, other)) if isinstance(other, int | ir.SymbolicDim) else None


def _whole(size: ir.SymbolicDim) -> Size | None:
    """Round what is a whole number."""
    return None if _read(size) is None else size


def _negated(size: ir.SymbolicDim) -> ir.SymbolicDim | None:
    return ir.SymbolicDim(f"-{size.value}") if _NAME.fullmatch(size.value or "") else None


def _names(size: ir.SymbolicDim) -> frozenset[str] | None:
    text = size.value or ""
    if _read(size) is None and not _is_minimum(size) and not _ROUNDED.fullmatch(text):
        return None
    return frozenset(_NAME.findall(text))


# --- one name behind windows -------------------------------------------------------------------

_SHIFTED = re.compile(r"(?:(\d+)\*)?(.*?)(?: ([+-]) (\d+))?")
_FLOORED = re.compile(r"floor\((.+?)/(\d+)( [+-] \d+/\d+)?\)")


def _read_shifted(text: str) -> tuple[int, str, int] | None:
    """Read "4*floor(a/2 - 1/2) + 3" as 4, "floor(a/2 - 1/2)", 3; only of one name."""
    found = _SHIFTED.fullmatch(text)
    if found is None or not _is_windowed(found[2]):
        return None
    return int(found[1] or 1), found[2], int((found[3] or "") + (found[4] or "0"))


def _read_sum(text: str) -> tuple[int, str, int] | None:
    """Read "4*a*b + 3" as 4, "a*b", 3; and what `_read_shifted` reads."""
    found = _SHIFTED.fullmatch(text)
    if found is None or _is_windowed(found[2]):
        return _read_shifted(text)
    read = _read(ir.SymbolicDim(found[2]))
    if read is None or read[0] != 1 or len(read[1]) < 2 or (found[1] and found[2][0] == "("):
        return None
    return int(found[1] or 1), str(_size(*read)), int((found[3] or "") + (found[4] or "0"))


@functools.lru_cache(maxsize=1 << 12)
def _is_windowed(text: str) -> bool:
    """Whether a text is a name, or the floor of such a one, shifted, over a number."""
    if _NAME.fullmatch(text):
        return True
    found = _FLOORED.fullmatch(text)
    return found is not None and _is_windowed(found[1])


@functools.lru_cache(maxsize=1 << 12)
def _is_not_negative(text: str) -> bool:
    """Whether a name, which is above 0, or the floor of such a one cannot be negative."""
    found = _FLOORED.fullmatch(text)
    if found is None:
        return _NAME.fullmatch(text) is not None
    below, shift = int(found[2]), Fraction((found[3] or "0").replace(" ", ""))
    least = Fraction(-1, below) if _NAME.fullmatch(found[1]) else 0
    return shift >= least and _is_not_negative(found[1])


def _shifted(factor: int, text: str, number: int) -> ir.SymbolicDim:
    scaled = text if factor == 1 else f"{factor}*{text}"
    return ir.SymbolicDim(f"{scaled} {_signed(number)}" if number else scaled)


def _signed(number: int | Fraction) -> str:
    return f"{'+' if number > 0 else '-'} {abs(number)}"


def _stepped(size: ir.SymbolicDim, step: int) -> ir.SymbolicDim | None:
    """Divide what `_read_sum` reads by a number, and round it down."""
    read = _read_sum(size.value or "")
    if read is None or step < 1:
        return None
    factor, text, number = read
    if factor % step == 0:  # which leaves a whole number, but for the shift
        return _shifted(factor // step, text, number // step)
    if step % factor or not _is_windowed(text):
        return None
    rest, below = Fraction(number, step), step // factor
    if rest.denominator == 1:
        return _shifted(1, f"floor({text}/{below})", int(rest))
    return ir.SymbolicDim(f"floor({text}/{below} {_signed(rest)})")


def _symbol(size: Size | None) -> Size | None:
    """What onnx-ir computes with a symbol stays one, even if it is a number."""
    return None if isinstance(size, int) else size


# --- products ----------------------------------------------------------------------------------


def _read(size: Size | None) -> _Product | None:
    """Read "4*a*b" as 4, ("a", "b"); sizes behind windows, shifted in brackets, are names, too."""
    if isinstance(size, int):
        return (size, ()) if size >= 0 else None
    text = "" if size is None else size.value or ""
    shifted = _read_shifted(text)
    if shifted is not None and shifted[2]:
        return 1, (f"({text})",)
    number, names = 1, list[str]()
    for part in _factors(text):
        if part.isdecimal():
            number *= int(part)
        elif _is_factor(part):
            names.append(part)
        else:
            return None
    if len(set(names)) < len(names) or (number != 1 and names and names[0].startswith("(")):
        return None
    return number, tuple(names)


def _factors(text: str) -> list[str]:
    """Split at each "*" that is not in brackets."""
    parts, depth = [""], 0
    for part in re.split(r"([*()])", text):
        depth += (part == "(") - (part == ")")
        if part == "*" and not depth:
            parts.append("")
        else:
            parts[-1] += part
    return parts


def _is_factor(text: str) -> bool:
    if not text.startswith("("):
        return _is_windowed(text)
    read = _read_shifted(text[1:-1])
    return read is not None and read[2] != 0


def _size(number: int, names: Sequence[str]) -> Size | None:
    """Write a product as SymPy does; None where that reads it as another: 2*(a + 1)*b."""
    if not names or number == 0:
        return number
    if len(names) == 1 and (shifted := _read_shifted(_bare(names[0]))) is not None:
        factor, text, shift = shifted
        return _shifted(number * factor, text, number * shift)
    ordered = sorted(names, key=_order)
    if number != 1 and ordered[0].startswith("("):
        return None
    return ir.SymbolicDim("*".join([*([] if number == 1 else [str(number)]), *ordered]))


def _bare(text: str) -> str:
    return text[1:-1] if text.startswith("(") else text


@functools.lru_cache(maxsize=1 << 12)
def _order(text: str) -> tuple[Any, ...]:
    """Where SymPy writes a factor among others: what its `sort_key` says of these forms."""
    read = _read_shifted(_bare(text))
    assert read is not None
    return _order_of(Fraction(read[0]), read[1], Fraction(read[2]))


def _order_of(factor: Fraction, text: str, shift: Fraction) -> tuple[Any, ...]:
    if found := _FLOORED.fullmatch(text):
        inside = Fraction((found[3] or "0").replace(" ", ""))
        of = (_order_of(Fraction(1, int(found[2])), found[1], inside),)
        scaled: tuple[Any, ...] = ((4, 0, "floor"), (1, of), factor)
    else:
        scaled = ((2, 0, "Symbol"), (1, (text,)), factor)
    number = ((1, 0, "Number"), (0, ()), shift)
    return ((3, 1, "Add"), (2, (scaled, number)), Fraction(1)) if shift else scaled


_ROUNDED = re.compile(r"floor\([\w.*]+/(?:[\w.]+|\([\w.*]+\))\)")


def _rounded(size: ir.SymbolicDim, other: Size) -> ir.SymbolicDim | None:
    """Divide products of plain names, and round down what is left of the divisor."""
    above, below = _read(size), _read(other)
    if above is None or below is None or not below[0]:
        return None
    left = sorted(set(above[1]) - set(below[1]))
    rest = sorted(set(below[1]) - set(above[1]))
    if not left or not rest or not all(map(_NAME.fullmatch, (*above[1], *below[1]))):
        return None
    ratio = Fraction(above[0], below[0])
    numerator = "*".join([*([] if ratio.numerator == 1 else [str(ratio.numerator)]), *left])
    divisors = [*([] if ratio.denominator == 1 else [str(ratio.denominator)]), *rest]
    denominator = "*".join(divisors)
    if len(divisors) > 1:
        denominator = f"({denominator})"
    return ir.SymbolicDim(f"floor({numerator}/{denominator})")


# --- the number that a size is -----------------------------------------------------------------


def _value(size: ir.SymbolicDim, bindings: Mapping[str, int]) -> int | None:
    """Compute a size whose names are all known; None if one is not, or it is no whole number."""
    # In quotes, Python reads any name: they may have dots, or be its keywords.
    text = _NAME.sub(lambda name: repr(name[0]), size.value or "")
    try:
        found = _computed(ast.parse(text, mode="eval").body, bindings)
    except (ArithmeticError, KeyError, SyntaxError, TypeError, ValueError):
        return None
    return int(found) if found.denominator == 1 else None


_OPERATIONS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"floor": math.floor, "Max": max, "Min": min}


def _computed(node: ast.expr, bindings: Mapping[str, int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.Constant(value=str(name)):
            return Fraction(bindings[name])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_computed(operand, bindings)
        case ast.BinOp(left=left, op=op, right=right):
            made = _OPERATIONS[type(op)](_computed(left, bindings), _computed(right, bindings))
            return Fraction(made)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return Fraction(_FUNCTIONS[name](*(_computed(each, bindings) for each in arguments)))
    raise TypeError(f"a size is no {type(node).__name__}")
