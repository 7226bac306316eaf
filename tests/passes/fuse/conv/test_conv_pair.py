# SPDX-License-Identifier: Apache-2.0
"""Convolutions that follow each other merge, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.conv.conv_pair import merge_convs
from burnish.testing import assert_refuses, assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]

_POINT = "float[8,8,1,1] w, float[8] b"


def _model(freeze: Freeze, weights: str, body: str) -> ir.Model:
    text = f"g (float[2,8,7,9] x, {weights}) => (float[2,C,H,W] y) {{ {body} }}"
    return freeze(text, opset=21)


@pytest.mark.parametrize(
    ("weights", "body"),
    [
        (f"{_POINT}, float[4,8,1,1] u, float[4] c", "t = Conv(x, w, b)  y = Conv(t, u, c)"),
        (f"{_POINT}, float[4,8,3,3] u", "t = Conv(x, w, b)  y = Conv<strides = [2, 1]>(t, u)"),
        (f"{_POINT}, float[4,8,3,3] u", "t = Conv(x, w)  y = Conv<pads = [1, 1, 0, 1]>(t, u)"),
        (
            "float[6,8,3,3] w, float[6] b, float[4,6,1,1] u, float[4] c",
            "t = Conv<pads = [1, 1, 1, 1], dilations = [2, 1]>(x, w, b)  y = Conv(t, u, c)",
        ),
        (
            "float[6,8,3,3] w, float[4,6,1,1] u",
            't = Conv<strides = [2, 2]>(x, w)  y = Conv<auto_pad = "SAME_UPPER">(t, u)',
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_fires_and_keeps_the_numbers(freeze: Freeze, weights: str, body: str, dtype: str) -> None:
    text = f"g (float[2,8,7,9] x, {weights}) => (float[2,C,H,W] y) {{ {body} }}"
    before = freeze(text.replace("float", dtype), opset=21)
    after = before.clone()
    run_pass(merge_convs, after)
    assert [node.op_type for node in after.graph] == ["Conv"]
    assert_same_outputs(before, after)


@pytest.mark.parametrize(
    ("weights", "body", "reason"),
    [
        (
            f"{_POINT}, float[4,8,3,3] u",
            "t = Conv(x, w, b)  y = Conv<pads = [1, 1, 1, 1]>(t, u)",
            "does not reach the padding",
        ),
        (
            "float[2,8,1,1] w, float[8,2,1,1] u",
            "t = Conv(x, w)  y = Conv(t, u)",
            "more arithmetic",
        ),
        (
            "float[6,8,3,3] w, float[4,6,3,3] u",
            "t = Conv(x, w)  y = Conv(t, u)",
            "neither convolution is pointwise",
        ),
        (
            "float[8,1,1,1] w, float[4,8,1,1] u",
            "t = Conv<group = 8>(x, w)  y = Conv(t, u)",
            "have groups",
        ),
        (
            "float[8,8,1,1] w",
            "t = Conv(x, w)  y = Conv(t, w)",
            "used by other nodes",
        ),
    ],
)
def test_refuses(freeze: Freeze, weights: str, body: str, reason: str) -> None:
    assert_refuses(merge_convs, _model(freeze, weights, body), reason)


def test_a_result_that_others_use_is_kept(freeze: Freeze) -> None:
    text = (
        f"g (float[1,8,7,9] x, {_POINT}, float[4,8,1,1] u) => (float[1,4,7,9] y, float[1,8,7,9] t)"
    )
    before = freeze(f"{text} {{ t = Conv(x, w, b)  y = Conv(t, u) }}")
    run_pass(merge_convs, before)
    assert [node.op_type for node in before.graph] == ["Conv", "Conv"]
