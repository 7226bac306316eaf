# SPDX-License-Identifier: Apache-2.0
"""Scores of heads one behind another, and their masks.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses
from tests.passes.fuse.attention.conftest import WANTS, Freeze, fused

BEHIND = (
    "g (float[2,4,5,8] xq, float[2,4,5,8] xk, float[2,4,5,8] xv, float[%s] xb, int64[3] m,"
    " int64[3] three, int64[4] four, int64[4] out) => (float[2,4,5,8] y) {"
    " q = Reshape(xq, m) k = Reshape(xk, m) v = Reshape(xv, m) t = Transpose<perm=[0,2,1]>(k)"
    " s = MatMul(q, t) b = Add(s, xb) z = Reshape(b, four) p = Softmax(z) w = Reshape(p, three)"
    " o = MatMul(w, v) y = Reshape(o, out) }"
)
TARGETS = {
    "m": np.array([-1, 5, 8]),
    "three": np.array([-1, 5, 5]),
    "four": np.array([2, 4, 5, 5]),
    "out": np.array([2, 4, 5, 8]),
}


@pytest.mark.parametrize("mask", ["8,1,5", "8,5,5"])
def test_a_mask_of_heads_one_behind_another(freeze: Freeze, mask: str) -> None:
    """ALiBi as BLOOM has it: a row for all queries of a head."""
    model = freeze(BEHIND % mask, opset=23, **TARGETS)
    assert "Attention" in fused(model)


@pytest.mark.parametrize("mask", ["1,5,5", "8,5,1", "1,1,5"])
def test_a_mask_that_is_broadcast_over_heads_one_behind_another(freeze: Freeze, mask: str) -> None:
    model = freeze(BEHIND % mask, opset=23, **TARGETS)
    assert_refuses(attention, model, "a mask of three axes is not added", target=WANTS)


def test_a_zero_that_is_added_is_no_mask(freeze: Freeze) -> None:
    """As torch.baddbmm leaves it behind."""
    text = (BEHIND % "1,1,1").replace("xb", "nought")
    assert "Attention" in fused(freeze(text, opset=23, nought=0.0, **TARGETS))
