# SPDX-License-Identifier: Apache-2.0
"""Slice, Gather, Squeeze and Concat that pick one of an axis, or a part that was put there."""

from __future__ import annotations

import pytest

from burnish.passes.cleanup.picks import slice_of_concat, slice_squeeze, unsqueeze_gather
from burnish.testing import assert_refuses, assert_rewrites, parse

HEADER = "g (float[3,N,4] x, float[3,2,4] z) => (float[{}] y) <{}> {{ {} }}"
BOUNDS = "int64[1] s = {{{}}}, int64[1] e = {{{}}}, int64[1] a = {{{}}}, int64[1] b = {{{}}}"


def picked(start: int, end: int, axis: int, squeezed: int, dims: str, body: str) -> str:
    """Return a model with the bounds s and e of the axis a, and another axis b."""
    return HEADER.format(dims, BOUNDS.format(start, end, axis, squeezed), body)


@pytest.mark.parametrize(
    ("start", "end", "axis", "squeezed", "dims", "after"),
    [
        (1, 2, 0, 0, "N,4", "Gather<axis = 0>(x, i)"),
        (2, 3, -1, 2, "3,N", "Gather<axis = 2>(x, i)"),
        (-1, 2**63 - 1, 0, -3, "N,4", "Gather<axis = 0>(x, i)"),
        (-2, -1, 2, 2, "3,N", "Gather<axis = 2>(x, i)"),
    ],
)
def test_one_of_an_axis_is_gathered(
    start: int, end: int, axis: int, squeezed: int, dims: str, after: str
) -> None:
    body = "c = Slice(x, s, e, a)  y = Squeeze(c, b)"
    expected = HEADER.format(dims, f"int64 i = {{{start}}}", f"y = {after}")
    before = parse(picked(start, end, axis, squeezed, dims, body))
    assert_rewrites(slice_squeeze, before, parse(expected))


@pytest.mark.parametrize(
    ("start", "end", "axis", "squeezed", "dims", "reason"),
    [
        (0, 9, 1, 1, "3,4", "not one element"),
        (-1, 0, 0, 0, "N,4", "not one element"),
        (1, 2, 0, 1, "1,4", "the axes differ"),
    ],
)
def test_more_of_an_axis_is_refused(
    start: int, end: int, axis: int, squeezed: int, dims: str, reason: str
) -> None:
    body = "c = Slice(x, s, e, a)  y = Squeeze(c, b)"
    before = parse(picked(start, end, axis, squeezed, dims, body))
    assert_refuses(slice_squeeze, before, reason)


def test_a_transpose_before_it_is_left_to_the_runtime() -> None:
    body = "t = Transpose<perm = [2, 0, 1]>(x)  c = Slice(t, s, e, a)  y = Squeeze(c, b)"
    before = parse(picked(1, 2, 0, 0, "3,N", body))
    assert_refuses(slice_squeeze, before, "the runtime moves the Transpose before it")


@pytest.mark.parametrize(("axis", "back", "dims"), [(0, 0, "1,N,4"), (2, -1, "3,N,1")])
def test_one_of_an_axis_that_stays(axis: int, back: int, dims: str) -> None:
    before = HEADER.format(
        dims,
        f"int64 i = {{1}}, int64[1] b = {{{back}}}",
        f"c = Gather<axis = {axis}>(x, i)  y = Unsqueeze(c, b)",
    )
    after = HEADER.format(dims, "int64[1] i = {1}", f"y = Gather<axis = {axis}>(x, i)")
    assert_rewrites(unsqueeze_gather, parse(before), parse(after))


@pytest.mark.parametrize(
    ("axis", "body", "reason"),
    [
        (1, "y = Unsqueeze(c, b)", "the axes differ"),
        (0, "u = Unsqueeze(c, b)  y = Add(u, c)", "other operators need it without the axis"),
    ],
)
def test_what_is_not_put_back_is_refused(axis: int, body: str, reason: str) -> None:
    constants = f"int64 i = {{1}}, int64[1] b = {{{axis}}}"
    before = parse(HEADER.format("A,B,4", constants, f"c = Gather(x, i)  {body}"))
    assert_refuses(unsqueeze_gather, before, reason)


@pytest.mark.parametrize(
    ("parts", "start", "end", "dims", "after"),
    [
        ("z, x", 0, 2, "3,2,4", "y = Identity(z)"),
        ("z, x", 2, 2**63 - 1, "3,N,4", "y = Identity(x)"),
        ("z, x", 1, 2, "3,1,4", "y = Slice(z, s, e, a, t)"),
        ("z, z, x", 3, 4, "3,1,4", "y = Slice(z, s, e, a, t)"),
        ("z, x", 3, 2**63 - 1, "3,M,4", "y = Slice(x, s, e, a, t)"),
    ],
)
def test_a_part_that_was_just_put_there(
    parts: str, start: int, end: int, dims: str, after: str
) -> None:
    body = f"c = Concat<axis = 1>({parts})  y = Slice(c, s, e, a)"
    before = picked(start, end, 1, 1, dims, body)
    first = start - 2 if start >= 2 else start
    last = end - 2 if start >= 2 and end < 9 else end
    bounds = BOUNDS.format(first, last, 1, 1) + ", int64[1] t = {1}"
    expected = HEADER.format(dims, bounds if "Slice" in after else "", after).replace(" <>", "")
    assert_rewrites(slice_of_concat, parse(before), parse(expected))


@pytest.mark.parametrize(
    ("parts", "start", "end"), [("z, x", 1, 3), ("x, z", 1, 2), ("z, x", -1, 2**63 - 1)]
)
def test_what_may_be_of_several_parts_is_refused(parts: str, start: int, end: int) -> None:
    body = f"c = Concat<axis = 1>({parts})  y = Slice(c, s, e, a)"
    before = parse(picked(start, end, 1, 1, "3,M,4", body))
    assert_refuses(slice_of_concat, before, "it takes from several parts, or sizes are unknown")
