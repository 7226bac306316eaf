# SPDX-License-Identifier: Apache-2.0
"""Patterns drop exactly what they say: N of M, blocks, single weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InputError
from burnish.passes.prune.pattern import Blocks, Kept, conforms, parse


def test_text() -> None:
    assert parse("2:4") == Kept(2, 4)
    assert parse("block:8x1") == Blocks(8, 1)
    assert parse("none") == Blocks(1, 1)


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "2/4", "block:0x4", "block:4", "-1:4", ""])
def test_no_patterns(text: str) -> None:
    with pytest.raises(InputError, match="option 'pattern'"):
        parse(text)


@given(st.data())
def test_n_of_m_are_kept_and_they_are_the_largest(data: st.DataObject) -> None:
    of = data.draw(st.integers(2, 8))
    kept = data.draw(st.integers(1, of - 1))
    numbers = st.sampled_from([0.0, 0.5, 1.0, 2.0])
    rows = data.draw(st.lists(st.lists(numbers, min_size=3 * of, max_size=3 * of), min_size=1))
    scores = np.array(rows)
    gone = Kept(kept, of).drop(scores)
    for group, lost in zip(scores.reshape(-1, of), gone.reshape(-1, of), strict=True):
        order = np.argsort(group, kind="stable")
        assert set(np.flatnonzero(lost)) == set(order[: of - kept])
    assert conforms(np.where(gone, 0, 1), kept, of) == 1.0


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 1), (1, 4), (2, 3)])
def test_blocks_go_as_a_whole(rows: int, columns: int, by_row: bool) -> None:
    scores = np.random.default_rng(0).random((3, 8, 12))
    gone = Blocks(rows, columns).drop(scores, 0.5, by_row=by_row)
    tiles = gone.reshape(3, 8 // rows, rows, 12 // columns, columns)
    assert np.array_equal(tiles.all(axis=(2, 4)), tiles.any(axis=(2, 4)))
    sums = scores.reshape(tiles.shape).sum(axis=(2, 4))
    lost = tiles.any(axis=(2, 4))
    if by_row:
        assert (lost.sum(axis=-1) == round(0.5 * 12 / columns)).all()
    else:
        assert sums[lost].max() <= sums[~lost].min()
        assert lost.sum() == round(0.5 * lost.size)


def test_says_what_does_not_fit() -> None:
    assert Kept(2, 4).obstacle(3, 6) == "its inputs are no multiple of 4"
    assert Kept(2, 4).obstacle(3, 8) is None
    assert Blocks(4, 1).obstacle(6, 5) == "not a multiple of 4x1 blocks"
    assert Blocks().obstacle(7, 5) is None


def test_conformity_counts_groups() -> None:
    assert conforms(np.array([[1, 0, 1, 0, 1, 1, 1, 0]]), 2, 4) == 0.5
    assert conforms(np.array([[1, 0, 1, 0, 1, 1]]), 2, 4) == 1.0  # the rest is zeros
    assert conforms(np.ones((2, 3)), 2, 4) == 0.0
