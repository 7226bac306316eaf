# SPDX-License-Identifier: Apache-2.0
"""Masks of minus infinity, in rows that are masked whole and in float16.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.target import Target
from tests.passes.fuse.attention.conftest import (
    GUARD,
    HALF,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_MHA,
    Freeze,
    fused,
)


@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_a_guarded_mask_of_minus_infinity(freeze: Freeze, target: Target) -> None:
    body = f"{{ {PRODUCT} b = Where(xm, zero, minusinf) z = Add(a, b) {GUARD} }}"
    assert "Softmax" not in fused(freeze(SIGNATURE + body, opset=23, **NUMBERS), target)


@pytest.mark.parametrize("low", [-65504.0, -np.inf])
def test_masks_of_float16(freeze: Freeze, low: float) -> None:
    """No row is masked whole; in float16, what such a row gives is a matter of rounding."""
    signature = HALF.replace("float low", "float16 low").replace("float zero", "float16 zero")
    signature = signature.replace("float c", "float16 c").replace("bool[N,1,2,3] xm", "bool[3] m")
    body = (
        "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) a = Mul(s, c)"
        f" b = Where(m, zero, low) z = Add(a, b) {GUARD if low == -np.inf else PLAIN}"
    )
    numbers = NUMBERS | {"low": low}
    model = freeze(f"{signature} {{ {body} }}", opset=23, m=np.array([1, 0, 1]), **numbers)
    assert "Attention" in fused(model)
