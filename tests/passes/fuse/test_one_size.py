# SPDX-License-Identifier: Apache-2.0
"""One size of a shape."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.one_size import one_size
from burnish.testing import assert_refuses, assert_rewrites, parse

SIGNATURE = "g (float[N,M,3] x) => (int64[1] y) <int64[1] i = {{{}}}> "


@pytest.mark.parametrize(("index", "start"), [(0, 0), (1, 1), (-1, 2)])
def test_shape_picks_a_size(index: int, start: int) -> None:
    before = parse(SIGNATURE.format(index) + "{ s = Shape(x) y = Gather(s, i) }")
    shape = f"Shape<start={start}, end={start + 1}>(x)"
    after = parse("g (float[N,M,3] x) => (int64[1] y) " + f"{{ y = {shape} }}")
    assert_rewrites(one_size, before, after)


def test_a_shape_of_unknown_rank_is_refused() -> None:
    before = parse(
        "g (float[N] x, int64[K] t) => (int64[1] y) <int64[1] i = {0}>"
        " { r = Reshape(x, t) s = Shape(r) y = Gather(s, i) }"
    )
    assert_refuses(one_size, before, "the rank is unknown")
