# SPDX-License-Identifier: Apache-2.0
"""Sizes or 1, and sizes that are multiplied and divided again."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.sizes.arithmetic import size_or_one, size_times_over
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass
from tests.passes.fuse.sizes.conftest import HEADER

TARGET = (
    "g (float[N,S] x, float[1,1,1] z) => (float[N,C,S] y) <int64[1] minus = {-1},"
    " int64[3] minuses = {-1, -1, -1}, int64[3] ones = {1, 1, 1}, int64[1] one = {1},"
    " bool[3] which = {0, 1, 0}, int64[1] first = {0}, int64[1] second = {1}> { s = Shape(x)"
    " n = Gather(s, first) l = Gather(s, second) c = Concat<axis=0>(%s) %s y = Expand(z, w) }"
)


@pytest.mark.parametrize(
    "choice",
    ["e = Equal(c, minuses) w = Where(e, ones, c)", "w = Where(which, ones, c)"],
    ids=["computed", "folded"],
)
def test_size_or_one(choice: str) -> None:
    before = parse(HEADER + TARGET % ("n, minus, l", choice))
    after = parse(HEADER + TARGET % ("n, one, l", "w = Identity(c)"))
    run_pass("cleanup", after)
    original = before.clone()
    run_pass(size_or_one, before)
    run_pass("cleanup", before)
    assert "Where" not in [node.op_type for node in before.graph]
    assert_same_outputs(original, before)


@pytest.mark.parametrize(
    ("parts", "choice", "reason"),
    [
        ("d, minus, l", "e = Equal(c, minuses) w = Where(e, ones, c)", "a size might be -1"),
        ("n, minus, l", "e = Equal(c, ones) w = Where(e, ones, c)", "not where a size is -1"),
        (
            "n, minus, l",
            "e = Equal(c, minuses) w = Where(e, minuses, c)",
            "what is chosen is not 1",
        ),
    ],
    ids=["difference", "other", "not 1"],
)
def test_other_choices_stay(parts: str, choice: str, reason: str) -> None:
    text = (TARGET % (parts, choice)).replace("c = Concat", "d = Sub(n, l) c = Concat")
    assert_refuses(size_or_one, parse(HEADER + text), reason)


def test_size_times_over() -> None:
    signature = HEADER + "g (int64 n) => (int64 y) <int64 four = {4}, int64 two = {2}>"
    before = parse(signature + "{ m = Mul(n, four) y = Div(m, four) }")
    assert_rewrites(size_times_over, before, parse(signature + "{ y = Identity(n) }"))
    other = parse(signature + "{ m = Mul(n, four) y = Div(m, two) }")
    assert_refuses(size_times_over, other, "multiplied and divided by different numbers")
    real = parse(
        HEADER + "g (float n) => (float y) <float c = {3}> { m = Mul(n, c) y = Div(m, c) }"
    )
    assert_refuses(size_times_over, real, "not whole numbers")


def test_a_size_times_over_may_be_a_vector() -> None:
    signature = HEADER + "g (int64[1] n, int64 m) => (int64[1] y) <int64 a = {4}, int64[1] b = {4}>"
    before = parse(signature + "{ t = Mul(n, b) y = Div(t, a) }")
    assert_rewrites(size_times_over, before, parse(signature + "{ y = Identity(n) }"))
    wider = parse(signature + "{ t = Mul(m, b) y = Div(t, a) }")
    assert_refuses(size_times_over, wider, "the number has more axes")


CHUNK = HEADER + "g (float[N,S] x) => (int64 y) <int64 i = {1}, int64 n = {3}, int64 two = {%d}> "


def test_the_size_of_a_chunk() -> None:
    """As TorchScript spells that of torch.chunk: rounded up."""
    body = "s = Shape(x) k = Gather(s, i)"
    before = parse(CHUNK % 2 + f"{{ {body} m = Mul(k, n) a = Add(m, two) y = Div(a, n) }}")
    assert_rewrites(size_times_over, before, parse(CHUNK % 2 + f"{{ {body} y = Identity(k) }}"))


@pytest.mark.parametrize(
    ("rest", "size"), [(3, "Gather(s, i)"), (-1, "Gather(s, i)"), (2, "ReduceMin<keepdims=0>(j)")]
)
def test_what_is_more_than_a_chunk(rest: int, size: str) -> None:
    body = f"s = Shape(x) j = Sub(s, n) k = {size} m = Mul(k, n) a = Add(m, two) y = Div(a, n)"
    model = parse(CHUNK % rest + f"{{ {body} }}")
    assert_refuses(size_times_over, model, "what is added is not less than a part")
