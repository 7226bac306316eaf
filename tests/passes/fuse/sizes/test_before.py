# SPDX-License-Identifier: Apache-2.0
"""Sizes asked of what lies before a Transpose or an Attention."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.sizes.before import size_before_attention, size_before_transpose
from burnish.testing import assert_refuses, assert_rewrites, parse
from tests.passes.fuse.sizes.conftest import HEADER


def test_size_before_transpose() -> None:
    signature = "g (float[N,S,T] x) => (int64 y, float[T,N,S] t)"
    before = "<int64 i = {0}> { t = Transpose<perm=[2,0,1]>(x) s = Shape(t) y = Gather(s, i) }"
    after = "<int64 i = {2}> { t = Transpose<perm=[2,0,1]>(x) s = Shape(x) y = Gather(s, i) }"
    assert_rewrites(size_before_transpose, parse(signature + before), parse(signature + after))


def test_two_sizes_before_transpose_stay() -> None:
    body = "<int64[2] i = {0, 1}> { t = Transpose<perm=[1,0]>(x) s = Shape(t) y = Gather(s, i) }"
    model = parse("g (float[N,S] x) => (int64[2] y)" + body)
    assert_refuses(size_before_transpose, model, "not one size")


@pytest.mark.parametrize(("axis", "source", "where"), [(2, "q", 2), (-1, "v", 3)])
def test_size_before_attention(axis: int, source: str, where: int) -> None:
    signature = (
        HEADER + "g (float[N,4,S,8] q, float[N,4,T,8] k, float[N,4,T,6] v)"
        " => (int64 y, float[N,4,S,6] a)"
    )
    body = "<int64 i = {%d}> { a = Attention(q, k, v) s = Shape(%s) y = Gather(s, i) }"
    before, after = parse(signature + body % (axis, "a")), parse(signature + body % (where, source))
    assert_rewrites(size_before_attention, before, after)


def test_sizes_of_an_attention_on_three_axes_stay() -> None:
    model = parse(
        HEADER + "g (float[N,S,8] q, float[N,T,8] k, float[N,T,8] v) => (int64 y) <int64 i = {1}>"
        "{ a = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v) s = Shape(a) y = Gather(s, i) }"
    )
    assert_refuses(size_before_attention, model, "not one size of four")
