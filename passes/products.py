# SPDX-License-Identifier: Apache-2.0
"""Arithmetic with sizes that are products, or what convolutions leave of one name: without SymPy.

Most sizes are a number, a name, or a product of both. Most of what is computed with them is what
Reshape makes of -1, or a window that slides: some numbers are added, and one divides. Cancelling
names takes microseconds; SymPy takes up to milliseconds, and a fifth of a second to load.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import onnx_ir as ir

Size = int | ir.SymbolicDim

# As onnx-ir reads them: PaddlePaddle writes "DynamicDimension.0".
_NAME = re.compile(r"[^\W\d][\w.]*")

_Product = tuple[int, tuple[str, ...]]  # a number, and names


def product(sizes: Sequence[Size]) -> Size | None:
    """Multiply sizes; None if one is not a product, or a name occurs twice."""
    number, names = 1, list[str]()
    for size in sizes:
        read = _read(size)
        if read is None:
            return None
        number *= read[0]
        names += read[1]
    return _size(number, names) if len(set(names)) == len(names) else None


def quotient(size: Size, divisor: Size) -> Size | None:
    """Divide sizes; None if one is not a product, or something of the divisor is left."""
    above, below = _read(size), _read(divisor)
    if above is None or below is None or below[0] <= 0 or above[0] % below[0]:
        return None
    if not set(below[1]) <= set(above[1]):
        return None
    return _size(above[0] // below[0], [name for name in above[1] if name not in below[1]])


def largest(*sizes: Size) -> Size | None:
    """Return the larger of a product and numbers below 1; None in all other cases."""
    symbols = [size for size in sizes if not isinstance(size, int)]
    if len(symbols) != 1 or any(size > 0 for size in sizes if isinstance(size, int)):
        return None
    read = _read(symbols[0])
    if read is None or read[0] <= 0 or not all(map(_NAME.fullmatch, read[1])):
        return None
    return symbols[0]


def quicken(utilities: Any) -> None:
    """Try these functions first, in the utilities of the shape inference library and in onnx-ir.

    The results are those of SymPy, to the letter.
    """
    for owner, name, quick in (
        (utilities, "dim_product", product),
        (utilities, "floor_div_dim", quotient),
        (utilities, "ceil_div_dim", quotient),
        (utilities, "max_dim", largest),
        (ir.SymbolicDim, "__add__", _plus),
        (ir.SymbolicDim, "__sub__", _minus),
        (ir.SymbolicDim, "__mul__", _times),
        (ir.SymbolicDim, "__floordiv__", _over),
        (ir.SymbolicDim, "__truediv__", _exactly_over),
        (ir.SymbolicDim, "__ceil__", _whole),
        (ir.SymbolicDim, "free_symbols", _names),
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
    read = _read_shifted(size)
    return None if read is None else _shifted(read[0], read[1] + other)


def _minus(size: ir.SymbolicDim, other: Any) -> Size | None:
    """Take a number away."""
    return _plus(size, -other) if isinstance(other, int) else None


def _times(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(product((size, other))) if isinstance(other, int | ir.SymbolicDim) else None


def _over(size: ir.SymbolicDim, other: Any) -> Size | None:
    if not isinstance(other, int | ir.SymbolicDim):
        return None
    found = _symbol(quotient(size, other))
    return _stepped(size, other) if found is None and isinstance(other, int) else found


def _exactly_over(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(quotient(size, other)) if isinstance(other, int | ir.SymbolicDim) else None


def _whole(size: ir.SymbolicDim) -> Size | None:
    """Round what is a whole number."""
    return None if _read(size) is None else size


def _names(size: ir.SymbolicDim) -> frozenset[str] | None:
    read = _read(size)
    return None if read is None else frozenset(_NAME.findall(" ".join(read[1]))) - {"floor"}


# --- one name behind windows -------------------------------------------------------------------

_SHIFTED = re.compile(r"(.*?)(?: ([+-]) (\d+))?")
_FLOORED = re.compile(r"floor\((.+?)/(\d+)(?: [+-] \d+/\d+)?\)")


def _read_shifted(size: ir.SymbolicDim) -> tuple[str, int] | None:
    """Read "floor(a/2 - 1/2) + 3" as "floor(a/2 - 1/2)", 3; only of one name."""
    found = _SHIFTED.fullmatch(size.value or "")
    if found is None or not _is_windowed(found[1]):
        return None
    return found[1], int((found[2] or "") + (found[3] or "0"))


@functools.lru_cache(maxsize=1 << 12)
def _is_windowed(text: str) -> bool:
    """Whether a text is a name, or the floor of such a one, shifted, over a number."""
    if _NAME.fullmatch(text):
        return True
    found = _FLOORED.fullmatch(text)
    return found is not None and _is_windowed(found[1])


def _shifted(text: str, number: int) -> ir.SymbolicDim:
    sign = "+" if number > 0 else "-"
    return ir.SymbolicDim(f"{text} {sign} {abs(number)}" if number else text)


def _stepped(size: ir.SymbolicDim, step: int) -> ir.SymbolicDim | None:
    """Divide what `_read_shifted` reads by a number, and round it down."""
    read = _read_shifted(size)
    if read is None or step < 1:
        return None
    if step == 1:
        return size
    text, number = read
    rest = Fraction(number, step)
    if rest.denominator == 1:
        return _shifted(f"floor({text}/{step})", int(rest))
    sign = "+" if rest > 0 else "-"
    return ir.SymbolicDim(f"floor({text}/{step} {sign} {abs(rest)})")


def _symbol(size: Size | None) -> Size | None:
    """What onnx-ir computes with a symbol stays one, even if it is a number."""
    return None if isinstance(size, int) else size


def _read(size: Size) -> _Product | None:
    """Read "4*a*b" as 4, ("a", "b"); one size behind windows, in brackets, may be a name, too."""
    if isinstance(size, int):
        return size, ()
    number, names, text = 1, list[str](), size.value or ""
    shifted = _read_shifted(size)
    for part in (f"({text})",) if shifted is not None and shifted[1] else text.split("*"):
        if part.isdecimal():
            number *= int(part)
        elif _is_factor(part):
            names.append(part)
        else:
            return None
    return (number, tuple(names)) if len(set(names)) == len(names) else None


def _is_factor(text: str) -> bool:
    if not text.startswith("("):
        return _is_windowed(text)
    read = _read_shifted(ir.SymbolicDim(text[1:-1]))
    return read is not None and read[1] != 0


def _size(number: int, names: Sequence[str]) -> Size | None:
    """Write a product as SymPy does; None where that multiplies it out."""
    if not names or number == 0:
        return number
    plain = sorted(name for name in names if _NAME.fullmatch(name))
    windowed = [name for name in names if not _NAME.fullmatch(name)]
    if len(windowed) > 1:
        return None
    if windowed and not plain and windowed[0].startswith("("):
        return ir.SymbolicDim(windowed[0][1:-1]) if number == 1 else None
    return ir.SymbolicDim("*".join([*([] if number == 1 else [str(number)]), *plain, *windowed]))
