# SPDX-License-Identifier: Apache-2.0
"""Masks for windows that are shifted.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses
from tests.passes.fuse.attention.conftest import WANTS, Freeze, fused

WINDOWED = (
    "g (float[6,4,5,8] xq, float[6,4,5,8] xk, float[6,4,5,8] xv, float[%s] xb, int64[5] five,"
    " int64[4] four) => (float[6,4,5,8] y) { t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t)"
    " w = Reshape(s, five) b = Add(w, xb) c = Add(xb, b) z = Reshape(c, four) p = Softmax(z)"
    " y = MatMul(p, xv) }"
)
WINDOWS = {"five": np.array([2, 3, 4, 5, 5]), "four": np.array([6, 4, 5, 5])}


def test_a_mask_for_each_window(freeze: Freeze) -> None:
    """As Swin has it for windows that are shifted; added twice, as Swin V2 does."""
    model = freeze(WINDOWED % "1,3,1,5,5", opset=23, **WINDOWS)
    operators = fused(model)
    assert "Attention" in operators
    assert "Softmax" not in operators


@pytest.mark.parametrize("mask", ["2,3,1,5,5", "1,3,4,5,5", "1,1,1,5,5"])
def test_other_masks_of_five_axes(freeze: Freeze, mask: str) -> None:
    model = freeze(WINDOWED % mask, opset=23, **WINDOWS)
    assert_refuses(attention, model, "not one for each window", target=WANTS)
