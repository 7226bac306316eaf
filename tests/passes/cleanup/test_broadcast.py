# SPDX-License-Identifier: Apache-2.0
"""Operands that are broadcast before an operator that does so itself."""

from __future__ import annotations

import pytest

from burnish.passes.cleanup.broadcast import expand_before_operator, expand_before_where
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse

SIGNATURE = "g (bool[N,1,K] c, float[N,Q,K] x, float f) => (float[N,Q,K] y) "


@pytest.mark.parametrize("chosen", ["x, f", "f, x"])
def test_a_condition_is_broadcast_by_where(chosen: str) -> None:
    before = parse(f"{SIGNATURE}{{ s = Shape(x) e = Expand(c, s) y = Where(e, {chosen}) }}")
    after = parse(f"{SIGNATURE}{{ y = Where(c, {chosen}) }}")
    assert_rewrites(expand_before_where, before, after)


def test_a_part_of_the_shape_is_refused() -> None:
    model = parse(
        "g (bool[K] c, float[N,Q,K] x, float f) => (float[N,Q,K] y)"
        "{ s = Shape<start=1>(x) e = Expand(c, s) y = Where(e, x, f) }"
    )
    assert_refuses(expand_before_where, model, "not to the whole shape")


def test_the_shape_of_another_value_is_left() -> None:
    model = parse(
        "g (bool[1,K] c, float[N,K] x, float[1,K] z) => (float[N,K] y)"
        "{ s = Shape(x) e = Expand(c, s) y = Where(e, z, z) }"
    )
    assert_becomes(expand_before_where, model, ["Shape", "Expand", "Where"])


WIDE = "g (float[N,Q,1] c, float[N,Q,K] x, bool[N,Q,K] b, int64[3] s) => ({}[N,Q,K] y) "


@pytest.mark.parametrize(
    ("body", "after", "dtype"),
    [
        ("y = Div(x, e)", "y = Div(x, c)", "float"),
        ("y = Sub(e, x)", "y = Sub(c, x)", "float"),
        ("y = Less(e, x)", "y = Less(c, x)", "bool"),
        ("y = Where(b, e, x)", "y = Where(b, c, x)", "float"),
        ("y = Where(b, x, e)", "y = Where(b, x, c)", "float"),
        ("d = Div(x, e) y = Mul(d, e)", "d = Div(x, c) y = Mul(d, c)", "float"),
    ],
)
def test_an_operand_is_broadcast_by_the_operator(body: str, after: str, dtype: str) -> None:
    before = parse(WIDE.format(dtype) + f"{{ k = Shape(x) e = Expand(c, k) {body} }}")
    expected = parse(WIDE.format(dtype) + f"{{ {after} }}")
    assert_rewrites(expand_before_operator, before, expected)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("e = Expand(c, s) y = Mul(e, c)", "not known to be as large without it"),
        ("k = Shape(x) e = Expand(c, k) n = Neg(e) y = Mul(e, n)", "other operators need it"),
    ],
)
def test_what_makes_the_result_larger_stays(body: str, reason: str) -> None:
    model = parse(WIDE.format("float") + f"{{ {body} }}")
    assert_refuses(expand_before_operator, model, reason)
