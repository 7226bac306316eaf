# SPDX-License-Identifier: Apache-2.0
"""Rows of a table that are picked by indices in one row, which they were put in for it."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.picked_rows import gather_of_rows
from burnish.testing import assert_refuses, assert_rewrites, parse

SIGNATURE = (
    "g (float[9,4] t, int64[2,3] i) => (float[{}] y) <int64[1] row = {{-1}}, int64[{}] s = {{{}}}> "
)
BODY = "{ f = Reshape(i, row) g = Gather(t, f) y = Reshape(g, s) }"


def test_indices_keep_their_axes() -> None:
    before = parse(SIGNATURE.format("2,3,4", 3, "2,-1,4") + BODY)
    after = parse("g (float[9,4] t, int64[2,3] i) => (float[2,3,4] y) { y = Gather<axis=0>(t, i) }")
    assert_rewrites(gather_of_rows, before, after)


@pytest.mark.parametrize(("sizes", "dims"), [("3,2,4", "3,2,4"), ("2,12,1", "2,12,1")])
def test_other_axes_are_refused(sizes: str, dims: str) -> None:
    before = parse(SIGNATURE.format(dims, 3, sizes) + BODY)
    assert_refuses(gather_of_rows, before, "not known to have the axes of the indices")
