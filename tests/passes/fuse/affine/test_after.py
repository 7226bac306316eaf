# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions fold into the linear operator before them, or say why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.after import fold_affine_after
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import Freeze, with_dtypes


def test_a_scale_after_a_convolution_goes_into_its_weights_and_bias() -> None:
    before = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {1, 2}, float[2] b = {5, 7}, float[1,2,1,1] c = {10, 100}>
        { t = Conv(x, w, b)  y = Mul(t, c) }"""
    )
    after = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {10, 200}, float[2] b = {50, 700}> { y = Conv(x, w, b) }"""
    )
    assert_rewrites(fold_affine_after, before, after)


def test_a_shift_becomes_the_bias_a_convolution_lacked() -> None:
    before = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {1, 2}, float[2,1,1] c = {10, 100}> { t = Conv(x, w)  y = Sub(c, t) }"""
    )
    after = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {-1, -2}, float[2] c = {10, 100}> { y = Conv(x, w, c) }"""
    )
    assert_rewrites(fold_affine_after, before, after)


AFTER = {
    "conv, chain": (
        "(float[2,4,7,7] x, float[6,4,3,3] w, float[6] b, float c, float[6,1,1] d, float[6,1,1] v)"
        " => (float[2,6,7,7] y)"
        "{ t = Conv<pads=[1,1,1,1]>(x, w, b) p = Mul(c, t) q = Sub(p, d) y = Div(q, v) }",
        ["Conv"],
    ),
    "grouped conv": (
        "(float[2,4,7] x, float[6,2,3] w, float[6,1] c) => (float[2,6,5] y)"
        "{ t = Conv<group=2>(x, w) y = Mul(t, c) }",
        ["Conv"],
    ),
    "grouped transposed conv": (
        "(float[2,4,5,5] x, float[4,3,3,3] w, float[1,6,1,1] c, float[6,1,1] d)"
        " => (float[2,6,9,9] y)"
        "{ t = ConvTranspose<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w) p = Mul(t, c)"
        " y = Add(p, d) }",
        ["ConvTranspose"],
    ),
    "gemm with alpha, beta and a transposed weight": (
        "(float[5,4] x, float[6,4] w, float[6] b, float[6] c, float[1,6] d) => (float[5,6] y)"
        "{ t = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) p = Mul(t, c) y = Add(p, d) }",
        ["Gemm"],
    ),
    "gemm without a bias": (
        "(float[5,4] x, float[4,6] w, float c) => (float[5,6] y) { t = Gemm(x, w) y = Div(t, c) }",
        ["Gemm"],
    ),
    "matmul": (
        "(float[3,5,4] x, float[4,6] w, float[6] c) => (float[3,5,6] y)"
        "{ t = MatMul(x, w) y = Mul(t, c) }",
        ["MatMul"],
    ),
    "matmul of a batch of weights": (
        "(float[3,5,4] x, float[3,4,6] w, float[6] c) => (float[3,5,6] y)"
        "{ t = MatMul(x, w) y = Mul(t, c) }",
        ["MatMul"],
    ),
    "matmul and add": (
        "(float[3,5,4] x, float[4,6] w, float[6] b, float v) => (float[3,5,6] y)"
        "{ t = MatMul(x, w) s = Add(b, t) r = Div(s, v) y = Sub(b, r) }",
        ["MatMul", "Add"],
    ),
}


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(AFTER))
def test_numbers_stay_when_folding_after(freeze: Freeze, case: str, dtype: str) -> None:
    body, expected = AFTER[case]
    model = freeze("g " + body.replace("float", dtype))
    assert_becomes(fold_affine_after, model, expected)


AFTER_REFUSED = {
    "the constant differs along more than the channels": (
        "(float[1,4,5,5] x, float[6,4,1,1] w, float[1,1,1,5] c) => (float[1,6,5,5] y)"
        "{ t = Conv(x, w) y = Mul(t, c) }"
    ),
    "c is not constant": (
        "(float[1,4,5,5] x, float[6,4,1,1] w, float[6,1,1] x1) => (float[1,6,5,5] y)"
        "{ t = Conv(x, w) y = Mul(t, x1) }"
    ),
    "the weights are not constant": (
        "(float[1,4,5,5] x, float[6,4,1,1] x1, float[6,1,1] c) => (float[1,6,5,5] y)"
        "{ t = Conv(x, x1) y = Mul(t, c) }"
    ),
    "the bias is not constant": (
        "(float[1,4,5,5] x, float[6,4,1,1] w, float[6] x1, float c) => (float[1,6,5,5] y)"
        "{ t = Conv(x, w, x1) y = Mul(t, c) }"
    ),
    "the bias differs along more than the channels": (
        "(float[3,4] x, float[4,6] w, float[3,6] b, float c) => (float[3,6] y)"
        "{ t = Gemm(x, w, b) y = Mul(t, c) }"
    ),
    "the weights are used by other nodes too": (
        "(float[1,64,5,5] x, float[64,64,1,1] w, float c)"
        " => (float[1,64,5,5] y, float[1,64,5,5] z)"
        "{ t = Conv(x, w) y = Mul(t, c) z = Conv(y, w) }"
    ),
    "the inner Conv is an output of the graph": (
        "(float[1,4,5,5] x, float[6,4,1,1] w, float c) => (float[1,6,5,5] y, float[1,6,5,5] t)"
        "{ t = Conv(x, w) y = Mul(t, c) }"
    ),
    "integers are not folded": (
        "(int32[5,4] x, int32[4,6] w, int32[6] c) => (int32[5,6] y)"
        "{ t = MatMul(x, w) y = Div(t, c) }"
    ),
}


@pytest.mark.parametrize("reason", AFTER_REFUSED)
def test_folding_after_is_refused(freeze: Freeze, reason: str) -> None:
    assert_refuses(fold_affine_after, freeze("g " + AFTER_REFUSED[reason]), reason)


@pytest.mark.parametrize(
    ("operator", "number", "reason"),
    [
        ("Div", 0.0, "the constant is not finite, or zero and a divisor"),
        ("Mul", float("nan"), "the constant is not finite, or zero and a divisor"),
        ("Mul", 3e38, "folding overflows"),
        ("Mul", 1e-45, "folding underflows"),
        ("Add", 2.0**23, "the shift is so large that adding it rounds"),
    ],
)
def test_numbers_that_rounding_would_spoil_are_refused(
    freeze: Freeze, operator: str, number: float, reason: str
) -> None:
    model = freeze(
        "g (float[1,4,5,5] x, float[6,4,1,1] w, float c) => (float[1,6,5,5] y)"
        f"{{ t = Conv(x, w) y = {operator}(t, c) }}",
        c=number,
        w=9.0,
    )
    assert_refuses(fold_affine_after, model, reason)
