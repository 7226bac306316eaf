# SPDX-License-Identifier: Apache-2.0
"""Arithmetic with neutral elements, and the zeros and shapes that speak against it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.cleanup import neutral
from burnish.passes.rule import Rule
from burnish.testing import assert_refuses, assert_rewrites, parse

# Signed zeros, infinities, NaN and the smallest number: what a neutral element must leave alone.
SPECIAL = np.array([[0.0, -0.0, np.inf], [-np.inf, np.nan, 1e-45]], np.float32)


def label(item: object) -> str:
    """Name a test by its rule and expression."""
    return item.name if isinstance(item, Rule) else str(item)


def model(expression: str, constant: str, dtype: str = "float") -> ir.Model:
    """Return a model that computes an expression of `x` and a constant `c`."""
    return parse(
        f"g ({dtype}[2,3] x) => ({dtype}[2,3] y) "
        f"{{ c = Constant<value = {constant}>()  a = {expression}  y = Neg(a) }}"
    )


@pytest.mark.parametrize(
    ("rule", "expression", "constant"),
    [
        (neutral.multiply_by_one, "Mul(x, c)", "float {1}"),
        (neutral.multiply_by_one, "Mul(c, x)", "float[3] {1, 1, 1}"),
        (neutral.divide_by_one, "Div(x, c)", "float[1] {1}"),
        (neutral.power_of_one, "Pow(x, c)", "float {1}"),
        (neutral.power_of_one, "Pow(x, c)", "int64 {1}"),
        (neutral.subtract_zero, "Sub(x, c)", "float[2,1] {0, 0}"),
        (neutral.add_zero, "Add(c, x)", "float {-0.0}"),
    ],
    ids=label,
)
def test_fires(rule: Rule, expression: str, constant: str) -> None:
    before = model(expression, constant)
    after = parse("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    assert_rewrites(rule, before, after, feeds={"x": SPECIAL})


@pytest.mark.parametrize(
    ("rule", "expression"),
    [
        (neutral.add_zero, "Add(x, c)"),
        (neutral.subtract_zero, "Sub(x, c)"),
    ],
    ids=label,
)
def test_fires_on_whole_numbers(rule: Rule, expression: str) -> None:
    before = model(expression, "int64 {0}", "int64")
    after = parse("g (int64[2,3] x) => (int64[2,3] y) { y = Neg(x) }")
    assert_rewrites(rule, before, after)


@pytest.mark.parametrize(
    ("rule", "expression", "constant", "reason"),
    [
        (neutral.multiply_by_one, "Mul(x, c)", "float[1,1,1] {1}", "may broadcast"),
        (neutral.divide_by_one, "Div(x, c)", "float[2,1,1] {1, 1}", "may broadcast"),
        (neutral.subtract_zero, "Sub(x, c)", "float {-0.0}", "-0.0 - -0.0 is 0.0"),
        (neutral.add_zero, "Add(x, c)", "float {0}", "-0.0 + 0.0 is 0.0"),
    ],
    ids=label,
)
def test_refuses(rule: Rule, expression: str, constant: str, reason: str) -> None:
    before = parse(
        f"g (float[2,3] x) => (y) "
        f"{{ c = Constant<value = {constant}>()  a = {expression}  y = Neg(a) }}"
    )
    assert_refuses(rule, before, reason)


def test_one_divided_by_x_is_not_x_divided_by_one() -> None:
    before = model("Div(c, x)", "float {1}")
    original = before.clone()
    assert_rewrites(neutral.divide_by_one, before, original)


def test_unknown_rank_speaks_against_a_constant_with_axes() -> None:
    """A constant of shape [1] gives a scalar an axis."""
    before = parse(
        "g (float[2] x, int64[R] shape) => (y) "
        "{ a = Reshape(x, shape)  c = Constant<value = float[1] {1}>()  b = Mul(a, c)  y = Neg(b) }"
    )
    assert_refuses(neutral.multiply_by_one, before, "may broadcast")


@pytest.mark.parametrize(
    "nodes",
    [
        "m = MatMul(x, w)  a = Add(m, c)  y = Neg(a)",  # out of a sum
        "a = Add(x, c)  y = MatMul(a, w)",  # into a sum
    ],
)
def test_the_sign_of_a_zero_is_free_beside_a_sum(nodes: str) -> None:
    text = "g (float[2,3] x, float[3,3] w) => (float[2,3] y) <float c = {{0}}> {{ {} }}"
    before = parse(text.format(nodes))
    plain = nodes.replace("a = Add(m, c)  y = Neg(a)", "y = Neg(m)").replace(
        "a = Add(x, c)  y = MatMul(a, w)", "y = MatMul(x, w)"
    )
    assert_rewrites(
        neutral.add_zero, before, parse(text.replace("<float c = {{0}}>", "").format(plain))
    )


def test_an_output_of_the_model_keeps_the_sign_of_its_zeros() -> None:
    before = parse(
        "g (float[2,3] x, float[3,3] w) => (a, y) <float c = {0}> "
        "{ a = Add(x, c)  y = MatMul(a, w) }"
    )
    assert_refuses(neutral.add_zero, before, "-0.0 + 0.0 is 0.0")
