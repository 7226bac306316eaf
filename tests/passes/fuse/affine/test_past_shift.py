# SPDX-License-Identifier: Apache-2.0
"""A scale passes the shift that padding holds, or says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.past_shift import fold_scale_past_shift
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import Freeze


def test_a_scale_passes_the_shift_that_padding_holds() -> None:
    before = parse(
        """g (float[1,2,3] x) => (float[1,1,3] y)
        <float[1,2,3] w = {1, 2, 3, 4, 5, 6}, float[2,1] a = {2, 4}, float c = {8}>
        { p = Mul(a, x) q = Sub(p, c)  y = Conv<pads=[1,1]>(q, w) }"""
    )
    after = parse(
        """g (float[1,2,3] x) => (float[1,1,3] y)
        <float[1,2,3] w = {2, 4, 6, 16, 20, 24}, float[2,1] c = {-4, -2}>
        { q = Add(x, c)  y = Conv<pads=[1,1]>(q, w) }"""
    )
    assert_rewrites(fold_scale_past_shift, before, after)


def test_a_scale_of_zero_does_not_pass_a_shift(freeze: Freeze) -> None:
    model = freeze(
        "g (float[1,2,3] x, float[1,2,3] w, float a, float c) => (float[1,1,3] y)"
        "{ p = Mul(a, x) q = Add(p, c)  y = Conv<pads=[1,1]>(q, w) }",
        a=0.0,
    )
    assert_refuses(fold_scale_past_shift, model, "folding overflows")


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_numbers_stay_when_a_scale_passes_a_shift(freeze: Freeze, dtype: str) -> None:
    text = (
        "g (float[2,4,7,7] x, float[6,2,3,3] w, float[6] b, float[4,1,1] v, float[1,4,1,1] c)"
        " => (float[2,6,7,7] y)"
        "{ p = Div(x, v) q = Add(c, p) y = Conv<pads=[1,1,1,1], group=2>(q, w, b) }"
    )
    model = freeze(text.replace("float", dtype))
    assert_becomes(fold_scale_past_shift, model, ["Add", "Conv"])
