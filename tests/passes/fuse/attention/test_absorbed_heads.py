# SPDX-License-Identifier: Apache-2.0
"""Attention splits and joins its heads itself.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.passes.fuse.attention.absorbed_heads import attention_joins_heads
from burnish.testing import assert_refuses, assert_rewrites, parse
from tests.passes.fuse.attention.conftest import HEADER, WANTS


def test_attention_joins_heads() -> None:
    header = HEADER + "g (float[N,S,4,8] q, float[N,T,4,8] k, float[N,T,4,8] v)"
    before = parse(
        header + " => (float[N,S,4,8] y) { a = Transpose<perm=[0,2,1,3]>(q)"
        " b = Transpose<perm=[0,2,1,3]>(k) c = Transpose<perm=[0,2,1,3]>(v)"
        " d = Attention(a, b, c) y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    after = parse(
        header + " => (float[N,S,4,8] y) <int64[3] j = {0, 0, -1}, int64[4] s = {0, 0, 4, -1}>"
        "{ a = Reshape(q, j) b = Reshape(k, j) c = Reshape(v, j)"
        " d = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c) y = Reshape(d, s) }"
    )
    assert_rewrites(attention_joins_heads, before, after, target=WANTS)


def test_heads_that_are_not_counted_stay_apart() -> None:
    before = parse(
        HEADER + "g (float[N,S,H,8] q, float[N,T,H,8] k, float[N,T,H,8] v) => (float[N,S,H,8] y)"
        "{ a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,1,3]>(k)"
        " c = Transpose<perm=[0,2,1,3]>(v) d = Attention(a, b, c)"
        " y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    reason = "the number of heads is unknown"
    assert_refuses(attention_joins_heads, before, reason, target=WANTS)
