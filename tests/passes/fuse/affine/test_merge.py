# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions in a row merge, or say why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.merge import merge_affines
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import Freeze


def test_scales_and_shifts_in_a_row_merge() -> None:
    before = parse(
        """g (float[2,3] x) => (float[2,3] y)
        <float[3] a = {1, 2, 3}, float b = {4}, float[3] c = {5, 6, 7}, float d = {2},
         float e = {1}>
        { p = Mul(x, a) q = Sub(p, b) r = Mul(c, q) s = Div(r, d) y = Add(e, s) }"""
    )
    after = parse(
        """g (float[2,3] x) => (float[2,3] y)
        <float[3] a = {2.5, 6, 10.5}, float[3] b = {-9, -11, -13}>
        { p = Mul(x, a) y = Add(p, b) }"""
    )
    assert_rewrites(merge_affines, before, after)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "(float[4,5] x, float[4,1] a, float[5] b) => (float[4,5] y)"
            "{ p = Mul(x, a) y = Mul(p, b) }",
            "the merged constant would be larger",
        ),
        (
            "(int64[4] x, int64 a, int64 b) => (int64[4] y) { p = Mul(x, a) y = Div(p, b) }",
            "integers are not folded",
        ),
        (
            "(float[4] x, float big) => (float[4] y) { p = Add(x, big) y = Sub(p, big) }",
            "the shift is so large that adding it rounds",
        ),
        (
            "(float[4] x, float tiny) => (float[4] y) { p = Mul(x, tiny) y = Mul(p, tiny) }",
            "folding underflows",
        ),
    ],
)
def test_merging_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(
        merge_affines, freeze("g " + body, a=2, b=3, big=1.5 * 2**23, tiny=1e-30), reason
    )


@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
def test_numbers_stay_when_merging(freeze: Freeze, dtype: str) -> None:
    text = (
        "g (float[3,4] x, float[4] a, float[4] b, float v, float d) => (float[3,4] y)"
        "{ p = Mul(x, a) q = Add(p, b) r = Div(q, v) s = Sub(r, d) y = Add(s, b) }"
    )
    model = freeze(text.replace("float", dtype))
    assert_becomes(merge_affines, model, ["Mul", "Add"])


def test_a_scalar_stays_a_scalar(freeze: Freeze) -> None:
    model = freeze("g (float x, float a, float b) => (float y) { p = Mul(x, a) y = Mul(p, b) }")
    assert_becomes(merge_affines, model, ["Mul"])
