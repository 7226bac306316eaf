# SPDX-License-Identifier: Apache-2.0
"""Attentions that multiply three axes and mask four, as BART of older transformers does."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.attention.attention import FuseAttention
from burnish.passes.fuse.attention.merged import softmax_before_merge
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse


def test_softmax_is_taken_before_heads_are_merged() -> None:
    signature = "g (float[N,4,5,6] x) => (float[M,5,6] y) <int64[3] t = {-1, 5, 6}> "
    before = parse(signature + "{ r = Reshape(x, t) y = Softmax<axis=2>(r) }")
    after = parse(signature + "{ r = Softmax<axis=-1>(x) y = Reshape(r, t) }")
    assert_rewrites(softmax_before_merge, before, after)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [("-1, 6, 5", "the last axis is not known to stay"), ("-1, 30", "not four axes become three")],
)
def test_refuses(sizes: str, reason: str) -> None:
    rank = len(sizes.split(","))
    result = ",".join("ABC"[:rank])
    model = parse(
        f"g (float[N,4,5,6] x) => (float[{result}] y) <int64[{rank}] t = {{{sizes}}}>"
        f"{{ r = Reshape(x, t) y = Softmax<axis=-1>(r) }}"
    )
    assert_refuses(softmax_before_merge, model, reason)


ATTENTION = """<ir_version: 10, opset_import: ["": 23]>
    g (float[N,4,5,8] q, float[N,4,6,8] k, float[N,4,6,8] v, float[N,1,5,6] m)
    => (float[N,4,5,8] y)
    <int64[3] a = {-1, 5, 8}, int64[3] b = {-1, 6, 8}, int64[4] c = {-1, 4, 5, 6},
     int64[3] d = {-1, 5, 6}, int64[4] e = {-1, 4, 5, 8}> {
    q3 = Reshape(q, a) k3 = Reshape(k, b) v3 = Reshape(v, b)
    t = Transpose<perm=[0,2,1]>(k3) p = MatMul(q3, t) p4 = Reshape(p, c) s = Add(p4, m)
    s3 = Reshape(s, d) w = Softmax<axis=-1>(s3) o = MatMul(w, v3) y = Reshape(o, e) }"""


def test_the_attention_is_found() -> None:
    assert_becomes(FuseAttention(), parse(ATTENTION), ["Attention"])
