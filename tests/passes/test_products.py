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
    _negated,
    _over,
    _plus,
    _times,
    _value,
    _whole,
    largest,
    product,
    quotient,
    smallest,
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
    "Min(8, a)",
    "Min(B_1, a)",
    "2*a + 2",
    "2*floor(a/2 - 1/2) + 3",
    "2*floor(a/2 - 1/2) + 4",
    "floor(a/2 - 3/2) + 1",
    "floor(floor(a/2 - 1/2)/2) + 8",
    "floor(floor(a/2)/2 - 1/2) + 8",
    "floor(floor(a/4 + 3/4)/2 + 1/2)",
    "a - 1",
    "2*a*b + 3",
    "2*a*b - 3",
    "b*(floor(a/2) + 1)",
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
        (_over, lambda a, b: a // b, SIZES[: len(TEXTS)]),
        (largest, lambda a, b: sympy.Max(a, b), [-3, 0, 1]),
        (smallest, lambda a, b: sympy.Min(a, b), SIZES),
    ],
    ids=["product", "quotient", "over", "largest", "smallest"],
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
        for quick, exact, other in ((largest, sympy.Max, 0), (smallest, sympy.Min, found + 1)):
            if (chosen := quick(other, found)) is not None:
                assert str(chosen) == by_sympy(exact, other, ir.SymbolicDim(found.value))
        size = found


@pytest.mark.parametrize("seed", range(12))
def test_scaled_windows_are_the_same_as_sympy(seed: int) -> None:
    """Resize multiplies what convolutions leave; the next convolution goes on from there."""
    rng, answered = random.Random(seed), 0
    size: Size = ir.SymbolicDim("p.H.1")
    for _ in range(12):
        function, slow, number = rng.choice(
            [
                (_plus, lambda a, b: a + b, rng.randint(0, 9)),
                (_minus, lambda a, b: a - b, rng.randint(0, 9)),
                (_times, lambda a, b: a * b, rng.choice([1, 2, 3, 4, 8])),
                (_over, lambda a, b: a // b, rng.choice([1, 2, 2, 3, 4])),
            ]
        )
        assert isinstance(size, ir.SymbolicDim)
        found = function(size, number)
        if found is None:  # such as half of three times something
            break
        assert isinstance(found, ir.SymbolicDim)
        assert str(found) == by_sympy(slow, ir.SymbolicDim(size.value), number)
        size, answered = found, answered + 1
    assert answered > 2


@pytest.mark.parametrize("seed", range(12))
def test_products_of_windows_are_the_same_as_sympy(seed: int) -> None:
    """Reshape multiplies all sizes of a map, and divides by those it keeps."""
    rng, answered = random.Random(seed), 0
    texts = ["a", "x.2", "floor(a/2)", "floor(b/2)", "floor(x.2/3 - 2/3) + 1", "a + 2", "2*b + 4"]
    texts += ["floor(floor(a/2 - 1/2)/2)", "floor(floor(b/2 - 1/2)/2) + 1", "12", "5"]
    for _ in range(30):
        sizes = [ir.SymbolicDim(text) for text in rng.sample(texts, 4)]
        made = product(sizes)
        if made is None:
            continue
        answered += 1
        assert str(made) == by_sympy(lambda *each: sympy.prod(each), *sizes), sizes
        left = quotient(made, sizes[0])
        if left is not None:
            plain = ir.SymbolicDim(str(made))
            less = _minus(plain, 1)  # a convolution of one pixel
            assert less is None or str(less) == by_sympy(lambda a, b: a - b, plain, 1)
            if isinstance(less, ir.SymbolicDim):
                assert _over(less, 1) == less
                assert _plus(less, 1) == made
            assert str(left) == by_sympy(lambda a, b: a // b, plain, sizes[0]), (made, sizes[0])
    assert answered > 10


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_of_a_divisor_is_the_same_as_sympy(seed: int) -> None:
    rng, answered = random.Random(seed), 0
    for _ in range(30):
        above = product([rng.choice([1, 3, 768]), *map(ir.SymbolicDim, rng.sample("abcxyz", 3))])
        below = product([rng.choice([1, 2, 384]), *map(ir.SymbolicDim, rng.sample("abcxyz", 2))])
        assert isinstance(above, ir.SymbolicDim)
        assert isinstance(below, ir.SymbolicDim)
        found = _over(above, below)
        if found is None:
            continue
        answered += 1
        assert isinstance(found, ir.SymbolicDim)
        assert str(found) == by_sympy(lambda a, b: a // b, above, below)
        expression = ir.SymbolicDim(found.value)._expr
        assert expression is not None
        assert _names(found) == frozenset(map(str, expression.free_symbols))
    assert answered > 10


VALUES = {"a": 7, "b.1": 12, "class": 3}


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "class",
        "2*a - 3",
        "-a + b.1",
        "floor(floor(a/2 - 1/2)/3 + 2/3) + 1",
        "a*(floor(b.1/2) + 1)*(2*class + 3)",
        "floor(5*a*b.1/(4*class))",
        "Max(1, a - 9)",
        "Min(512, Max(0, a), b.1)",
        "b.1/class",
    ],
)
def test_values_are_those_of_sympy(text: str) -> None:
    expression = ir.SymbolicDim(text)._expr
    assert expression is not None
    expected = expression.subs({s: VALUES[str(s)] for s in expression.free_symbols})
    assert _value(ir.SymbolicDim(text), VALUES) == expected


@pytest.mark.parametrize(
    "text", ["a/2", "a + c", "a**2", "a % 2", "ceiling(a)", "a +", "a/(a - 7)"]
)
def test_values_left_to_sympy(text: str) -> None:
    assert _value(ir.SymbolicDim(text), VALUES) is None
    assert _value(ir.SymbolicDim(None), VALUES) is None


def test_negated() -> None:
    assert _negated(ir.SymbolicDim("p.a.1")) == ir.SymbolicDim("-p.a.1")
    assert _negated(ir.SymbolicDim("a + 1")) is None


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
