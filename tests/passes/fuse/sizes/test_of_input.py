# SPDX-License-Identifier: Apache-2.0
"""Sizes asked of the graph's inputs."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.sizes.of_input import size_of_input
from burnish.testing import assert_refuses, assert_rewrites, parse
from tests.passes.fuse.sizes.conftest import HEADER


@pytest.mark.parametrize(
    "body",
    [
        "<int64 i = {1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }",
        "<int64 i = {-1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }",
    ],
)
def test_size_of_input(body: str) -> None:
    signature = "g (float[N,S] x) => (int64 y)"
    after = parse(signature + "<int64 i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, parse(signature + body), after)


def test_a_slice_of_one_size() -> None:
    signature = "g (float[N,S] x) => (int64[1] y)"
    before = "<int64[1] i = {-1}, int64[1] e = {9223372036854775807}>"
    before += "{ a = Abs(x) s = Shape(a) y = Slice(s, i, e) }"
    after = parse(signature + "<int64[1] i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, parse(signature + before), after)


def test_a_size_that_is_known_is_a_constant() -> None:
    signature = "g (float[N,3] x) => (int64 y)"
    before = parse(signature + "<int64 i = {1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }")
    after = parse(signature + "<int64 three = {3}> { y = Identity(three) }")
    assert_rewrites(size_of_input, before, after)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<int64[2] i = {0, 1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }", "not one size"),
        ("<int64[1] i = {0}> { s = Shape(x) y = Gather(s, i) }", "it is an input already"),
        (
            "<int64[1] i = {0}> { a = NonZero(x) t = Transpose(a) s = Shape(t) y = Gather(s, i) }",
            "no input has an axis of that name",
        ),
    ],
)
def test_other_sizes_stay(body: str, reason: str) -> None:
    assert_refuses(size_of_input, parse("g (float[N,S] x) => (int64[K] y)" + body), reason)


def test_a_size_that_is_a_sum() -> None:
    signature = HEADER + "g (float[N,P] p, float[N,S] x) => (int64 y)"
    before = parse(
        signature + "<int64 i = {1}> { a = Concat<axis=1>(p, x) s = Shape(a) y = Gather(s, i) }"
    )
    after = parse(
        signature + "<int64 i = {1}> { s = Shape(p) a = Gather(s, i) t = Shape(x)"
        " b = Gather(t, i) y = Add(a, b) }"
    )
    assert_rewrites(size_of_input, before, after)


def test_a_size_that_is_a_product() -> None:
    constants = "<int64 i = {0}, int64[2] m = {-1, 6}, int64 four = {4}>"
    before = parse(
        HEADER
        + "g (float[N,4,6] x) => (int64 y)"
        + constants
        + "{ a = Reshape(x, m) s = Shape(a) y = Gather(s, i) }"
    )
    after = parse(
        HEADER
        + "g (float[N,4,6] x) => (int64 y)"
        + constants
        + "{ s = Shape(x) a = Gather(s, i) y = Mul(a, four) }"
    )
    assert_rewrites(size_of_input, before, after)


def test_the_shape_of_one_axis() -> None:
    signature = HEADER + "g (float[N,S] x) => (int64[1] y)"
    before = parse(signature + "{ a = Abs(x) y = Shape<start=1, end=2>(a) }")
    after = parse(signature + "<int64[1] i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, before, after)
