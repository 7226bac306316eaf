# SPDX-License-Identifier: Apache-2.0
"""Masks that lack axes, rows or columns.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.backends.target import Target
from tests.passes.fuse.attention.conftest import (
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_MHA,
    Freeze,
    fused,
)


@pytest.mark.parametrize("mask", ["2,3", "4,2,3", "1,2,3"])
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_masks_of_fewer_axes(freeze: Freeze, mask: str, target: Target) -> None:
    signature = SIGNATURE.replace("[N,4,2,3] xb", f"[{mask}] xb")
    model = freeze(f"{signature} {{ {PRODUCT} z = Add(a, xb) {PLAIN} }}", opset=23, **NUMBERS)
    assert "Softmax" not in fused(model, target)
