# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions fold into BatchNormalization, or say why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.affine.batch_norm import fold_affine_into_batch_norm
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.affine.conftest import BATCH_NORM, Freeze


def test_a_scale_and_a_shift_go_into_batch_norm() -> None:
    before = parse(
        """g (float[1,2,3] x) => (float[1,2,3] y)
        <float[2] g = {3, 3}, float[2] b = {5, 6}, float[2] m = {1, 2}, float[2] v = {4, 9},
         float[2,1] c = {10, 100}, float d = {1}>
        { p = Sub(x, d) t = BatchNormalization(p, g, b, m, v) y = Mul(t, c) }"""
    )
    after = parse(
        """g (float[1,2,3] x) => (float[1,2,3] y)
        <float[2] g = {30, 300}, float[2] b = {50, 600}, float[2] m = {2, 3}, float[2] v = {4, 9}>
        { y = BatchNormalization(x, g, b, m, v) }"""
    )
    assert_rewrites(fold_affine_into_batch_norm, before, after)


def test_a_scale_of_positions_stays_beside_batch_norm(freeze: Freeze) -> None:
    model = freeze(
        f"g (float[1,6,5] x, float[5] c, {BATCH_NORM}) => (float[1,6,5] y)"
        "{ p = BatchNormalization(x, g, b, m, v) y = Mul(p, c) }"
    )
    assert_refuses(
        fold_affine_into_batch_norm, model, "the constant differs along more than the channels"
    )


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_numbers_stay_when_folding_into_batch_norm(freeze: Freeze, dtype: str) -> None:
    text = (
        f"g (float[2,6,5] x, float[6,1] a, float c, {BATCH_NORM}) => (float[2,6,5] y)"
        "{ p = Mul(x, a) q = Sub(c, p) r = BatchNormalization(q, g, b, m, v) y = Sub(c, r) }"
    )
    model = freeze(text.replace("float", dtype))
    assert_becomes(fold_affine_into_batch_norm, model, ["BatchNormalization"])
