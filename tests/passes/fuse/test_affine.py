# SPDX-License-Identifier: Apache-2.0
"""Scales and shifts fold into linear operators and into each other, or say why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.affine import (
    fold_affine_after,
    fold_affine_before,
    fold_scale_past_shift,
    merge_affines,
)
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    parse,
)

Freeze = Callable[..., ir.Model]


def with_dtypes(cases: dict[str, tuple[str, list[str]]]) -> list[tuple[str, str]]:
    """Pair cases with the types the runtime has kernels for: no convolution of float64."""
    return [
        (case, dtype)
        for case, (body, _) in cases.items()
        for dtype in ("float", "float16", "double")
        if dtype != "double" or "Conv" not in body
    ]


# --- fold-affine-after ------------------------------------------------------------------------


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


def test_shared_weights_are_copied_where_each_user_folds_a_norm_of_its_own(freeze: Freeze) -> None:
    """The heads of a detector: one convolution for all scales, a norm for each."""
    model = freeze(
        "g (float[1,64,5,5] x, float[1,64,9,9] x2, float[64,64,1,1] w,"
        " float[64] c, float[64] d, float[64] m, float[64] v)"
        " => (float[1,64,5,5] y, float[1,64,9,9] z)"
        "{ s = Conv(x, w) y = BatchNormalization(s, c, d, m, v)"
        "  t = Conv(x2, w) z = BatchNormalization(t, d, c, m, v) }",
        v=2.0,
    )
    assert_becomes("fuse-affine", model, ["Conv", "Conv"])


def test_small_weights_used_twice_are_copied(freeze: Freeze) -> None:
    model = freeze(
        "g (float[1,4,5,5] x, float[4,4,1,1] w, float c) => (float[1,4,5,5] y, float[1,4,5,5] z)"
        "{ t = Conv(x, w) y = Mul(t, c) z = Conv(x, w) }"
    )
    assert_becomes(fold_affine_after, model, ["Conv", "Conv"])


# --- fold-affine-before -----------------------------------------------------------------------


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


# --- fold-scale-past-shift --------------------------------------------------------------------


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


# --- merge-affines ----------------------------------------------------------------------------


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
