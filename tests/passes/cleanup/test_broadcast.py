# SPDX-License-Identifier: Apache-2.0
"""Operands that are broadcast before an operator that does so itself."""

from __future__ import annotations

import pytest

from burnish.passes.cleanup.broadcast import expand_before_where
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
