# SPDX-License-Identifier: Apache-2.0
"""Rotations of a part of each head.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.passes.fuse.attention.rotary_part import rotary_part
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass
from tests.passes.fuse.attention.conftest import WANTS

PART = (
    '<ir_version: 10, opset_import: ["" : 23]> g (float[N,3,S,8] x, float[N,S,%d] c,'
    " float[N,S,%d] s) => (float[N,3,S,8] y) <int64[1] zero = {0}, int64[1] cut = {%d},"
    " int64[1] rest = {%d}, int64[1] end = {8}, int64[1] last = {3}> {"
)
PARTS = "a = Slice(x, zero, cut, last) b = Slice(x, rest, end, last)"


def test_a_part_that_is_rotated() -> None:
    header = PART % (2, 2, 4, 4)
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    signature = header.partition("<int64[1]")[0]
    after = parse(f"{signature} {{ y = RotaryEmbedding<rotary_embedding_dim=4>(x, c, s) }}")
    assert_rewrites(rotary_part, before, after, target=WANTS)


def test_a_part_on_three_axes() -> None:
    header = (
        '<ir_version: 10, opset_import: ["" : 23]> g (float[N,S,3,8] x, float[N,S,2] c,'
        " float[N,S,2] s) => (float[N,S,3,8] y) <int64[1] zero = {0}, int64[1] cut = {4},"
        " int64[1] end = {8}, int64[1] last = {3}, int64[3] j = {0, 0, -1},"
        " int64[4] h = {0, 0, 3, -1}> {"
    )
    before = parse(
        f"{header} a = Slice(x, zero, cut, last) b = Slice(x, cut, end, last) f = Reshape(a, j)"
        " r = RotaryEmbedding<num_heads=3>(f, c, s) p = Reshape(r, h) y = Concat<axis=-1>(p, b) }"
    )
    original = before.clone()
    run_pass(rotary_part, before, target=WANTS)
    assert [node.op_type for node in before.graph] == ["Reshape", "RotaryEmbedding", "Reshape"]
    assert_same_outputs(original, before)


def test_parts_of_a_part() -> None:
    """As where queries, keys and values are one tensor, and are cut along with their parts."""
    header = (PART % (2, 2, 4, 4)).replace("[N,3,S,8] x", "[N,3,S,9] x").replace("{8}", "{9}")
    header = header.replace("zero = {0}", "zero = {1}").replace("{4}", "{5}")
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    original = before.clone()
    run_pass(rotary_part, before, target=WANTS)
    assert [node.op_type for node in before.graph] == ["Slice", "RotaryEmbedding"]
    assert_same_outputs(original, before)


def test_parts_that_leave_something_out() -> None:
    header = PART.replace("[N,3,S,8] y", "[N,3,S,6] y") % (2, 2, 4, 6)
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    assert_refuses(rotary_part, before, "the slices are not the two parts", target=WANTS)
