# SPDX-License-Identifier: Apache-2.0
"""Weights that several nodes use are copied where that pays."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from burnish.passes.fuse.affine.after import fold_affine_after
from burnish.testing import assert_becomes

Freeze = Callable[..., ir.Model]


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
