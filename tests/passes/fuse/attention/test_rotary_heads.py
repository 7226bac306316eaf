# SPDX-License-Identifier: Apache-2.0
"""Heads that are set apart before they are rotated.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.passes.fuse.attention.rotary_heads import rotary_joins_heads
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass
from tests.passes.fuse.attention.conftest import WANTS

SWAPPED = (
    '<ir_version: 10, opset_import: ["" : 23]> g (float[N,S,4,8] x, float[N,4,S,8] k,'
    " float[N,S,4] c, float[N,S,4] s) => (float[N,4,S,8] y) { t = Transpose<perm=[0,2,1,3]>(x)"
    " r = RotaryEmbedding(t, c, s) %s }"
)


def test_rotary_joins_heads() -> None:
    before = parse(SWAPPED % "y = Attention(r, k, k)")
    original = before.clone()
    run_pass(rotary_joins_heads, before, target=WANTS)
    assert [node.op_type for node in before.graph] == [
        "Reshape",
        "RotaryEmbedding",
        "Reshape",
        "Transpose",
        "Attention",
    ]
    assert_same_outputs(original, before)


def test_heads_stay_apart_where_no_attention_is() -> None:
    before = parse(SWAPPED % "y = Add(r, k)")
    assert_refuses(rotary_joins_heads, before, "no Attention uses", target=WANTS)
