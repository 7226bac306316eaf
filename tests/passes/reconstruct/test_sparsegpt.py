# SPDX-License-Identifier: Apache-2.0
"""SparseGPT's sweep and the refit under a mask, against closed forms on small problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.passes.prune.pattern import Blocks, Kept, Pattern, conforms
from burnish.passes.reconstruct.compensate import damped, least_squares
from burnish.passes.reconstruct.refit import refit
from burnish.passes.reconstruct.sparsegpt import sparsegpt


def problem(rows: int = 16, features: int = 24) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, features)) @ rng.standard_normal((features, features))
    return rng.standard_normal((rows, features)), inputs.T @ inputs


def loss(new: NDArray[np.float64], rows: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.vdot((new - rows) @ second, new - rows))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_zeroes_exactly_the_share(ratio: float) -> None:
    rows, second = problem()
    new = sparsegpt(rows, second, Blocks(), ratio, step=8)
    assert (new == 0).sum() == round(ratio * rows.size)


def test_nothing_zeroed_is_nothing_changed() -> None:
    rows, second = problem()
    np.testing.assert_array_equal(sparsegpt(rows, second, Blocks(), 0.0), rows)


@pytest.mark.parametrize("pattern", [Kept(2, 4), Kept(1, 4), Kept(5, 8), Kept(1, 2)])
def test_patterns_hold_exactly(pattern: Kept) -> None:
    rows, second = problem()
    new = sparsegpt(rows, second, pattern, 1.0, step=10)
    assert conforms(new, pattern.kept, pattern.of) == 1.0
    assert (new == 0).mean() == pattern.share


def test_blocks_go_as_a_whole() -> None:
    rows, second = problem()
    new = sparsegpt(rows, second, Blocks(4, 2), 0.5, step=7)
    tiles = (new == 0).reshape(4, 4, 12, 2)
    assert np.array_equal(tiles.all(axis=(1, 3)), tiles.any(axis=(1, 3)))
    assert (new == 0).mean() == 0.5


@pytest.mark.parametrize("pattern", [Blocks(), Kept(2, 4), Blocks(2, 1)])
def test_loses_less_than_magnitudes(pattern: Pattern) -> None:
    rows, second = problem()
    ratio = 1.0 if isinstance(pattern, Kept) else 0.5
    plain = np.where(pattern.drop(np.square(rows), ratio), 0, rows)
    assert loss(sparsegpt(rows, second, pattern, ratio), rows, second) < 0.75 * loss(
        plain, rows, second
    )


def test_a_single_column_moves_the_others_as_optimal_brain_surgeon_says() -> None:
    """With one window and one weight to go, it is the OBS step in the order of the columns."""
    rows, second = problem(rows=1, features=6)
    new = sparsegpt(rows, second, Blocks(), 1 / 6)
    (gone,) = np.flatnonzero(new[0] == 0)
    free = slice(gone, None)
    # Columns before the one that goes are fixed by then.
    local = np.linalg.inv(damped(second)[free, free])
    expected = rows[0].copy()
    expected[free] -= rows[0, gone] / local[0, 0] * local[0]
    np.testing.assert_allclose(new[0], expected, rtol=1e-9, atol=1e-12)


def test_refit_is_least_squares() -> None:
    rows, second = problem()
    keep = np.random.default_rng(1).random(rows.shape) < 0.5
    keep[3] = False
    regular = damped(second)
    found = refit(rows, regular, keep, tolerance=1e-12, steps=500)
    assert not found[~keep].any()
    np.testing.assert_allclose(found, least_squares(rows, regular, keep), rtol=1e-6, atol=1e-8)


def test_refit_never_loses_more_than_what_it_starts_from() -> None:
    rows, second = problem()
    start = sparsegpt(rows, second, Kept(2, 4), 1.0)
    regular = damped(second)
    losses = [
        loss(refit(rows, regular, start != 0, start, steps=steps), rows, regular)
        for steps in (0, 1, 2, 5, 20, 100)
    ]
    assert losses[0] == loss(start, rows, regular)
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]
