# SPDX-License-Identifier: Apache-2.0
"""The causal flag in place of a mask that says just that.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.attention import FuseAttention
from burnish.passes.fuse.attention.causal import causal_attention
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass
from tests.passes.fuse.attention.conftest import HEADER, WANTS

SIGNATURE = "g (%s[N,4,S,8] q, %s[N,4,S,8] k, %s[N,4,S,8] v) => (%s[N,4,S,8] y)"
CONSTANTS = (
    " <int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] column = {1},"
    " float none = {0}, float low = {%s}> { %s }"
)
POSITIONS = (
    "s0 = Shape<start=2, end=3>(q) s = Squeeze(s0) j = Range(zero, s, one) i = Unsqueeze(j, column)"
)
FLAGGED = " { y = Attention<scale=0.25, is_causal=1>(q, k, v) }"
LOWEST = "-3.4028234663852886e38"


def text(body: str, kind: str = "float", low: str = LOWEST) -> str:
    return HEADER + SIGNATURE % ((kind,) * 4) + CONSTANTS % (low, body)


HALF = "a = Cast<to=10>(none) b = Cast<to=10>(low)"  # in float16, -65504


@pytest.mark.parametrize(
    ("kind", "mask", "low"),
    [
        ("float", "c = LessOrEqual(j, i) m = Where(c, none, low)", LOWEST),
        ("float", "m = LessOrEqual(j, i)", LOWEST),
        ("float16", f"c = LessOrEqual(j, i) {HALF} m = Where(c, a, b)", "-65504"),
        ("float16", "m = LessOrEqual(j, i)", LOWEST),
    ],
    ids=["added", "boolean", "added half", "boolean half"],
)
def test_causal_attention(kind: str, mask: str, low: str) -> None:
    body = f"{POSITIONS} {mask} y = Attention<scale=0.25, is_causal=0>(q, k, v, m)"
    before = parse(text(body, kind, low))
    after = parse(HEADER + SIGNATURE % ((kind,) * 4) + FLAGGED)
    assert_rewrites(causal_attention, before, after, target=WANTS)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("c = Less(j, i) m = Where(c, none, low)", "not that of the causal flag"),
        (
            "c = LessOrEqual(j, i) e = Add(j, two) w = Greater(e, i) d = And(c, w)"
            " m = Where(d, none, low)",
            "not that of the causal flag",
        ),
        (
            "c = LessOrEqual(j, i) h = ReduceMax<keepdims=0>(q) e = Greater(h, none)"
            " d = And(c, e) m = Where(d, none, low)",
            "the mask depends on more than positions",
        ),
    ],
    ids=["itself hidden", "window", "data"],
)
def test_other_masks_stay(mask: str, reason: str) -> None:
    model = parse(text(f"{POSITIONS} {mask} y = Attention<scale=0.25, is_causal=0>(q, k, v, m)"))
    assert_refuses(causal_attention, model, reason, target=WANTS)


SPELLED = (
    "t = Transpose<perm=[0,1,3,2]>(k) s1 = MatMul(q, t) a = Add(s1, m) p = Softmax(a)"
    " y = MatMul(p, v)"
)


@pytest.mark.parametrize("low", ["-3.4028234663852886e38", "-inf", "-1e30"])
def test_a_causal_mask_needs_no_guard(low: str) -> None:
    """No row is masked whole: minus infinity makes no NaN."""
    body = f"{POSITIONS} c = LessOrEqual(j, i) m = Where(c, none, low) {SPELLED}"
    if low == "-inf":
        body = body.replace("Where(c, none, low)", "Where(c, none, inf)")
        body = f"big = Mul(low, low) inf = Neg(big) {body}"
    model = parse(text(body, low="-3e38" if low == "-inf" else low))
    original = model.clone()
    run_pass(f"cleanup,{FuseAttention.name}", model, target=WANTS)
    run_pass("cleanup", model)
    (node,) = model.graph
    assert node.op_type == "Attention"
    assert node.attributes["is_causal"].as_int() == 1
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 4, 5, 8)).astype(np.float32) for name in "qkv"}
    assert_same_outputs(original, model, feeds=feeds)
