# SPDX-License-Identifier: Apache-2.0
"""What is computed without SymPy is what SymPy computes, to the letter."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import onnx_ir as ir
import pytest
import sympy  # type: ignore[import-untyped]

from burnish.passes.products import (
    Size,
    _exactly_over,
    _minus,
    _names,
    _over,
    _plus,
    _whole,
    largest,
    product,
    quotient,
)

TEXTS = [
    "a",
    "B_1",
    "4*a",
    "3*a*b",
    "a*b",
    "a**2",
    "a + 1",
    "floor(a/2)",
    "p.a.1",
    "Max(1, a)",
    "0",
    "6",
]
SIZES = [*map(ir.SymbolicDim, TEXTS), ir.SymbolicDim(None), *range(13)]


def by_sympy(function: Callable[..., object], *sizes: Size) -> str:
    """Compute with SymPy's expressions, and write the result as onnx-ir does."""
    made = [size if isinstance(size, int) else size._expr for size in sizes]
    return str(sympy.sympify(function(*made)))


@pytest.mark.parametrize(
    ("quick", "slow", "firsts"),
    [
        (product, lambda a, b: a * b, SIZES),
        (quotient, lambda a, b: a // b, SIZES),
        (largest, lambda a, b: sympy.Max(a, b), [-3, 0, 1]),
    ],
    ids=["product", "quotient", "largest"],
)
def test_the_same_as_sympy(
    quick: Callable[..., Size | None], slow: Callable[..., object], firsts: list[Size]
) -> None:
    answered = 0
    for first, second in itertools.product(firsts, SIZES):
        found = quick((first, second)) if quick is product else quick(first, second)
        if found is not None:
            answered += 1
            assert str(found) == by_sympy(slow, first, second), (first, second)
    assert answered > 5


def test_what_is_answered() -> None:
    a, b, both = ir.SymbolicDim("a"), ir.SymbolicDim("b"), ir.SymbolicDim("12*a*b")
    assert product([3, a, 4, b]) == both
    assert product([a, a]) is None
    assert quotient(both, ir.SymbolicDim("4*a")) == ir.SymbolicDim("3*b")
    assert quotient(both, both) == 1
    assert quotient(both, 5) is None
    assert quotient(a, b) is None
    assert quotient(a, 0) is None
    assert largest(0, a) == a
    assert largest(1, a) is None
    assert product([ir.SymbolicDim(None), 2]) is None


@pytest.mark.parametrize("name", ["H", "N_1", "p2o.DynamicDimension.1"])
@pytest.mark.parametrize("seed", range(8))
def test_sizes_behind_windows_are_the_same_as_sympy(name: str, seed: int) -> None:
    """Additions and divisions in any order, as chains of convolutions make them."""
    rng = random.Random(seed)
    size: Size = ir.SymbolicDim(name)
    for _ in range(9):
        function, slow, number = rng.choice(
            [
                (_plus, lambda a, b: a + b, rng.randint(0, 9)),
                (_minus, lambda a, b: a - b, rng.randint(0, 9)),
                (_over, lambda a, b: a // b, rng.choice([1, 2, 2, 2, 3, 4])),
            ]
        )
        assert isinstance(size, ir.SymbolicDim)
        found = function(size, number)
        assert isinstance(found, ir.SymbolicDim), (size, number)
        assert str(found) == by_sympy(slow, ir.SymbolicDim(size.value), number)
        assert _names(found) == frozenset({name})
        size = found


@pytest.mark.parametrize("text", ["a", "4*a*b", "floor(a/2) + 1", "a/2", "a + b"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_padding_to_the_same_size(text: str, step: int) -> None:
    """The library rounds size / step up, where a convolution pads for itself."""
    size, plain = ir.SymbolicDim(text), sympy.sympify(ir.SymbolicDim(text)._expr)
    divided = _exactly_over(size, step)
    if divided is not None:
        assert isinstance(divided, ir.SymbolicDim)
        assert str(divided) == str(plain / step)
    whole = _whole(size)
    if whole is not None:
        assert str(whole) == str(sympy.ceiling(plain))
    assert (whole is None) == (text in ("a/2", "a + b"))


def test_what_is_left_to_sympy() -> None:
    total = ir.SymbolicDim("a + b")
    assert [_plus(total, 1), _minus(total, 1), _over(total, 2), _names(total)] == [None] * 4
    assert _plus(ir.SymbolicDim(None), 1) is None
    assert _over(ir.SymbolicDim("a"), 0) is None
    assert _over(ir.SymbolicDim("a"), -2) is None
