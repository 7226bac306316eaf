# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions fold into the linear operator behind them, or say why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.before import fold_affine_before, fold_batch_norm_before
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import BATCH_NORM, Freeze, with_dtypes


def test_a_scale_before_a_padded_convolution_goes_into_its_weights() -> None:
    before = parse(
        """g (float[1,2,3,3] x) => (float[1,1,3,3] y)
        <float[1,2,1,1] w = {1, 2}, float[2,1,1] c = {10, 100}>
        { t = Mul(x, c)  y = Conv<pads=[1,1,1,1], strides=[2,2]>(t, w) }"""
    )
    after = parse(
        """g (float[1,2,3,3] x) => (float[1,1,3,3] y) <float[1,2,1,1] w = {10, 200}>
        { y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) }"""
    )
    assert_rewrites(fold_affine_before, before, after)


BEFORE = {
    "conv without padding": (
        "(float[2,4,7,7] x, float[6,2,3,3] w, float[6] b, float[1,4,1,1] c, float d)"
        " => (float[2,6,5,5] y) { p = Mul(x, c) q = Sub(d, p) y = Conv<group=2>(q, w, b) }",
        ["Conv"],
    ),
    "conv that says it is valid": (
        "(float[2,4,7] x, float[6,4,3] w, float[4,1] c) => (float[2,6,5] y)"
        '{ p = Add(x, c) y = Conv<auto_pad="VALID">(p, w) }',
        ["Conv"],
    ),
    "pointwise conv, same padding": (
        "(float[2,4,7] x, float[6,4,1] w, float[4,1] c) => (float[2,6,4] y)"
        '{ p = Add(x, c) y = Conv<auto_pad="SAME_UPPER", strides=[2]>(p, w) }',
        ["Conv"],
    ),
    "grouped transposed conv": (
        "(float[2,4,7,7] x, float[4,3,3,3] w, float[6] b, float[4,1,1] c) => (float[2,6,9,9] y)"
        "{ p = Div(x, c) y = ConvTranspose<group=2>(p, w, b) }",
        ["ConvTranspose"],
    ),
    "pointwise grouped transposed conv": (
        "(float[2,4,7,7] x, float[4,3,1,1] w, float[4,1,1] c) => (float[2,6,7,7] y)"
        "{ p = Sub(x, c) y = ConvTranspose<group=2>(p, w) }",
        ["ConvTranspose"],
    ),
    "gemm with both inputs transposed": (
        "(float[4,5] x, float[6,4] w, float[4,1] c, float[4,1] d) => (float[5,6] y)"
        "{ p = Mul(x, c) q = Add(p, d) y = Gemm<transA=1, transB=1, alpha=0.5>(q, w) }",
        ["Gemm"],
    ),
    "gemm that lacks a bias": (
        "(float[5,4] x, float[4,6] w, float[4] c) => (float[5,6] y)"
        "{ p = Add(x, c) y = Gemm<alpha=2.0>(p, w) }",
        ["Gemm"],
    ),
    "matmul and add": (
        "(float[3,5,4] x, float[4,6] w, float[4] c, float[4] d, float[6] b) => (float[3,5,6] y)"
        "{ p = Mul(x, c) q = Add(p, d) t = MatMul(q, w) y = Add(b, t) }",
        ["MatMul", "Add"],
    ),
    "two users that both fold": (
        "(float[3,4] x, float[4,6] w, float[4,6] w1, float[4] c) => (float[3,6] y, float[3,6] z)"
        "{ p = Mul(x, c) y = MatMul(p, w) z = MatMul(p, w1) }",
        ["MatMul", "MatMul"],
    ),
}


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(BEFORE))
def test_numbers_stay_when_folding_before(freeze: Freeze, case: str, dtype: str) -> None:
    body, expected = BEFORE[case]
    model = freeze("g " + body.replace("float", dtype), d=0.25)
    assert_becomes(fold_affine_before, model, expected)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "(float[1,4,5] x, float[6,4,3] w, float[4,1] c) => (float[1,6,5] y)"
            "{ p = Add(x, c) y = Conv<pads=[1,1]>(p, w) }",
            "the shift does not reach the padding",
        ),
        (
            "(float[1,4,5] x, float[6,4,3] w, float[4,1] c) => (float[1,6,5] y)"
            '{ p = Add(x, c) y = Conv<auto_pad="SAME_UPPER">(p, w) }',
            "the shift does not reach the padding",
        ),
        (
            "(float[1,4,5] x, float[4,6,3] w, float[4,1] c) => (float[1,6,7] y)"
            "{ p = Add(x, c) y = ConvTranspose(p, w) }",
            "the shift does not reach the padding",
        ),
        (
            "(float[3,4] x, float[4,6] w, float[4] c) => (float[3,6] y)"
            "{ p = Add(x, c) y = MatMul(p, w) }",
            "a MatMul has no bias to take the shift",
        ),
        (
            "(float[1,4,5] x, float[6,4,3] w, float c) => (float[1,6,3] y, float[1,4,5] p)"
            "{ p = Mul(x, c) y = Conv(p, w) }",
            "what is folded stays, because others use it too",
        ),
        (
            "(float[1,4,5] x, float[6,4,3] w, float[5] c) => (float[1,6,3] y)"
            "{ p = Mul(x, c) y = Conv(p, w) }",
            "the constant differs along more than the channels",
        ),
        (
            "(float[2,1] x, float[4,6] w, float[4] c) => (float[2,6] y)"
            "{ p = Mul(x, c) y = MatMul(p, w) }",
            "the constant may broadcast it",
        ),
        (
            "(float[N,C] x, float[4,6] w, float[4] c, float[6] b) => (float[N,6] y)"
            "{ p = Add(x, c) t = MatMul(p, w) y = Add(t, b) }",
            "the constant may broadcast it",
        ),
        (  # an image without a batch
            "(float[4,5,5] x, float[6,4,3,3] w, float[1,4,1,1] c) => (float[1,6,3,3] y)"
            "{ p = Sub(x, c) y = Conv(p, w) }",
            "the constant may broadcast it",
        ),
        (
            "(float[4,5,5] x, float[6,4,3,3] w, float[1,1,1,1] c) => (float[1,6,3,3] y)"
            "{ p = Mul(x, c) y = Conv(p, w) }",
            "the constant may broadcast it",
        ),
        (
            "(float x, float[4,6] w, float[1] c) => (float[6] y){ p = Mul(x, c) y = MatMul(p, w) }",
            "the constant may broadcast it",
        ),
    ],
)
def test_folding_before_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(fold_affine_before, freeze("g " + body), reason)


def test_batch_norm_goes_into_the_convolution_behind_it() -> None:
    before = parse(
        """g (float[1,2,3] x) => (float[1,1,3] y)
        <float[1,2,1] w = {1, 2}, float[2] g = {3, 3}, float[2] b = {5, 6}, float[2] m = {1, 2},
         float[2] v = {3.75, 0}>
        { t = BatchNormalization<epsilon=0.25>(x, g, b, m, v)  y = Conv(t, w) }"""
    )
    after = parse(
        """g (float[1,2,3] x) => (float[1,1,3] y)
        <float[1,2,1] w = {1.5, 12}, float[1] b = {-8.5}> { y = Conv(x, w, b) }"""
    )
    assert_rewrites(fold_batch_norm_before, before, after)


def test_batch_norm_before_a_padded_convolution_is_refused(freeze: Freeze) -> None:
    model = freeze(
        f"g (float[1,6,5] x, float[6,6,3] w, {BATCH_NORM}) => (float[1,6,5] y)"
        "{ p = BatchNormalization(x, g, b, m, v) y = Conv<pads=[1,1]>(p, w) }"
    )
    assert_refuses(fold_batch_norm_before, model, "the shift does not reach the padding")


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_numbers_stay_when_batch_norm_precedes(freeze: Freeze, dtype: str) -> None:
    text = (
        f"g (float[5,6] x, float[6,4] w, float[4] c, {BATCH_NORM}) => (float[5,4] y)"
        "{ p = BatchNormalization(x, g, b, m, v) t = MatMul(p, w) y = Add(t, c) }"
    )
    model = freeze(text.replace("float", dtype))
    assert_becomes(fold_batch_norm_before, model, ["MatMul", "Add"])
