# SPDX-License-Identifier: Apache-2.0
"""Transposed keys as torch's dynamo exporter spells them."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.attention.heads import swap_last_axes
from burnish.testing import assert_refuses, assert_rewrites, parse

# The shape of the keys in three axes, and of the result in four.
SHAPES = (
    "s = Shape(x) l = Slice(s, two, three) h = Slice(s, zero, two) a = Concat<axis=0>(m, l, d)"
    " b = Concat<axis=0>(h, d, l)"
)
CONSTANTS = (
    "<int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] m = {-1},"
    " int64[1] d = {8}>"
)
BODY = "r = Reshape(x, a) t = Transpose<perm=[0,2,1]>(r) y = Reshape(t, b)"
SIGNATURE = "g (float[N,4,T,8] x) => (float[N,4,8,T] y)"


def test_swap_last_axes() -> None:
    before = parse(f"{SIGNATURE} {CONSTANTS} {{ {SHAPES} {BODY} }}")
    after = parse(SIGNATURE + "{ y = Transpose<perm=[0,1,3,2]>(x) }")
    assert_rewrites(swap_last_axes, before, after)


def test_one_size_may_be_what_is_left() -> None:
    constants = "<int64[3] a = {-1, 5, 8}, int64[4] b = {-1, 4, 8, 5}>"
    signature = "g (float[N,4,5,8] x) => (float[N,4,8,5] y)"
    before = parse(f"{signature} {constants} {{ {BODY} }}")
    after = parse(signature + "{ y = Transpose<perm=[0,1,3,2]>(x) }")
    assert_rewrites(swap_last_axes, before, after)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("-1, 8, 5", "-1, 4, 5, 8", "does not keep the last two axes"),
        ("-1, 5, 8", "-1, 2, 8, 5", "does not restore the leading axes"),
        ("-1, 5, 8", "4, -1, 8, 5", "does not restore the leading axes"),
    ],
)
def test_other_reshapes_are_refused(a: str, b: str, reason: str) -> None:
    dims = [dim.strip() for dim in b.split(",")]
    result = ",".join("M" if dim == "-1" else dim for dim in dims)
    model = parse(
        f"g (float[N,4,5,8] x) => (float[{result}] y) <int64[3] a = {{{a}}}, int64[4] b = {{{b}}}>"
        f"{{ {BODY} }}"
    )
    assert_refuses(swap_last_axes, model, reason)
