# SPDX-License-Identifier: Apache-2.0
"""Arithmetic with sizes that are products, where a product comes out: without SymPy.

Most sizes are a number, a name, or a product of both. Most of what is computed with them is what
Reshape makes of -1, or adds nothing, as unpadded axes do. Cancelling names takes microseconds;
SymPy takes up to milliseconds, and a fifth of a second to load.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

Size = int | ir.SymbolicDim

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
    return symbols[0] if read is not None and read[0] > 0 else None


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
        (ir.SymbolicDim, "__sub__", _plus),
        (ir.SymbolicDim, "__mul__", _times),
        (ir.SymbolicDim, "__floordiv__", _over),
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
    """Add nothing, or take nothing away."""
    return size if isinstance(other, int) and other == 0 else None


def _times(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(product((size, other))) if isinstance(other, int | ir.SymbolicDim) else None


def _over(size: ir.SymbolicDim, other: Any) -> Size | None:
    return _symbol(quotient(size, other)) if isinstance(other, int | ir.SymbolicDim) else None


def _names(size: ir.SymbolicDim) -> frozenset[str] | None:
    read = _read(size)
    return None if read is None else frozenset(read[1])


def _symbol(size: Size | None) -> Size | None:
    """What onnx-ir computes with a symbol stays one, even if it is a number."""
    return None if isinstance(size, int) else size


def _read(size: Size) -> _Product | None:
    """Read "4*a*b" as 4, ("a", "b")."""
    if isinstance(size, int):
        return size, ()
    number, names = 1, list[str]()
    for part in (size.value or "").split("*"):
        if part.isdecimal():
            number *= int(part)
        elif part.isidentifier():
            names.append(part)
        else:
            return None
    return (number, tuple(names)) if len(set(names)) == len(names) else None


def _size(number: int, names: Sequence[str]) -> Size:
    """Write a product as SymPy does."""
    if not names or number == 0:
        return number
    return ir.SymbolicDim("*".join([*([] if number == 1 else [str(number)]), *sorted(names)]))
