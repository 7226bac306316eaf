# SPDX-License-Identifier: Apache-2.0
"""BatchNormalization folds into the linear operator before it, or says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.after import fold_batch_norm_after
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import BATCH_NORM, Freeze


def test_batch_norm_goes_into_the_convolution_before_it() -> None:
    before = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {1, 2}, float[2] g = {3, 3}, float[2] b = {5, 6}, float[2] m = {1, 2},
         float[2] v = {3.75, 0}>
        { t = Conv(x, w)  y = BatchNormalization<epsilon=0.25>(t, g, b, m, v) }"""
    )
    after = parse(
        """g (float[1,1,3,3] x) => (float[1,2,3,3] y)
        <float[2,1,1,1] w = {1.5, 12}, float[2] b = {3.5, -6}> { y = Conv(x, w, b) }"""
    )
    assert_rewrites(fold_batch_norm_after, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "(float[2,4,7,7] x, float[6,2,3,3] w, float[6] c, {}) => (float[2,6,5,5] y)"
            "{{ t = Conv<group=2>(x, w, c) y = BatchNormalization(t, g, b, m, v) }}",
            ["Conv"],
        ),
        (
            "(float[2,4,7,7] x, float[4,3,3,3] w, {}) => (float[2,6,9,9] y)"
            "{{ t = ConvTranspose<group=2>(x, w) y = BatchNormalization(t, g, b, m, v) }}",
            ["ConvTranspose"],
        ),
        (
            "(float[5,4] x, float[4,6] w, float[6] c, {}) => (float[5,6] y)"
            "{{ t = Gemm(x, w, c) y = BatchNormalization(t, g, b, m, v) }}",
            ["Gemm"],
        ),
        (
            "(float[5,4] x, float[4,6] w, {}) => (float[5,6] y)"
            "{{ t = MatMul(x, w) y = BatchNormalization(t, g, b, m, v) }}",
            ["MatMul", "Add"],
        ),
        (
            "(float[5,4] x, float[4,6] w, float[6] c, {}) => (float[5,6] y)"
            "{{ t = MatMul(x, w) s = Add(t, c) y = BatchNormalization(s, g, b, m, v) }}",
            ["MatMul", "Add"],
        ),
    ],
)
def test_numbers_stay_when_batch_norm_follows(
    freeze: Freeze, body: str, expected: list[str], dtype: str
) -> None:
    model = freeze("g " + body.format(BATCH_NORM).replace("float", dtype))
    assert_becomes(fold_batch_norm_after, model, expected)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "(float[2,4,7] x, float[6,4,3] w, {}) => (float[2,6,5] y) {{ t = Conv(x, w)"
            " y, a, b1 = BatchNormalization<training_mode=1>(t, g, b, m, v) }}",
            "BatchNormalization is in training mode",
        ),
        (
            "(float[2,6,4] x, float[4,5] w, {}) => (float[2,6,5] y)"
            "{{ t = MatMul(x, w) y = BatchNormalization(t, g, b, m, v) }}",
            "BatchNormalization is over another axis",
        ),
        (
            "(float[2,4,7] x, float[6,4,3] w, {}) => (float[2,6,5] y)"
            "{{ t = Conv(x, w) n = Neg(v) y = BatchNormalization(t, g, b, m, n) }}",
            "parameters of BatchNormalization are not constant",
        ),
    ],
)
def test_batch_norm_after_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(fold_batch_norm_after, freeze("g " + body.format(BATCH_NORM)), reason)


_ROWS = "int64[2] rows = {-1, 6}, int64[3] back = {2, 5, 6}"
_THREE_AXES = f"g (float[2,5,4] x, float[4,6] w, {BATCH_NORM}) => (float[2,5,6] y) <{_ROWS}>"
_FLAT = "r = Reshape(t, rows)  n = BatchNormalization(r, g, b, m, v)  y = Reshape(n, back)"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{{ t = MatMul(x, w)  {_FLAT} }}", ["MatMul", "Add"]),
        (f"{{ s = MatMul(x, w)  t = Add(s, m)  {_FLAT} }}", ["MatMul", "Add"]),
    ],
)
def test_batch_norm_of_rows_goes_into_the_product_of_three_axes(
    freeze: Freeze, body: str, left: list[str]
) -> None:
    assert_becomes("fuse-affine", freeze(_THREE_AXES + body), [*left, "Reshape", "Reshape"])


def test_batch_norm_of_rows_that_are_cut_otherwise_stays(freeze: Freeze) -> None:
    text = f"g (float[3,2,2] x, float[2,2] w, {BATCH_NORM}) => (float[2,6] y)"
    text += " <int64[2] rows = {2, 6}>"
    text += "{ t = MatMul(x, w)  r = Reshape(t, rows)  y = BatchNormalization(r, g, b, m, v) }"
    assert_refuses(fold_batch_norm_after, freeze(text), "does not keep the channels")


def test_a_negative_variance_is_refused(freeze: Freeze) -> None:
    model = freeze(
        f"g (float[2,4,7] x, float[6,4,3] w, {BATCH_NORM}) => (float[2,6,5] y)"
        "{ t = Conv(x, w) y = BatchNormalization(t, g, b, m, v) }",
        v=-1.0,
    )
    assert_refuses(fold_batch_norm_after, model, "parameters of BatchNormalization are not finite")
