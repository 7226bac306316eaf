# SPDX-License-Identifier: Apache-2.0
"""Levels: k-means against brute force, and the shape of the logarithmic ones."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from burnish.passes.quant.weights.levels import METHODS, Sample, kmeans, nearest


def squared_error(numbers: np.ndarray, levels: np.ndarray) -> float:
    distance = np.abs(numbers.reshape(-1, 1).astype(np.float64) - levels).min(axis=1)
    return float(np.square(distance).sum())


def test_kmeans_is_optimal_on_few_numbers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        numbers = np.sort(rng.standard_cauchy(11)).astype(np.float32)
        best = min(
            sum(float(np.square(part - part.mean()).sum()) for part in parts)
            for cuts in combinations(range(1, 11), 3)
            for parts in [[numbers[a:b].astype(np.float64) for a, b in pairwise((0, *cuts, 11))]]
        )
        found = squared_error(numbers, kmeans(Sample.of(numbers), 4))
        assert found == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [4, 16, 256])
def test_levels_are_sorted_and_the_stated_error_is_true(method: str, count: int) -> None:
    numbers = np.random.default_rng(1).laplace(0, 0.1, 5000).astype(np.float32)
    sample = Sample.of(numbers)
    levels = METHODS[method](sample, count)
    assert levels.dtype == np.float32
    assert levels.shape == (count,)
    assert (np.diff(levels) >= 0).all()
    expected = squared_error(numbers, levels)
    assert sample.error(levels.astype(np.float64)) == pytest.approx(expected, rel=1e-3)
    decoded = levels[nearest(numbers, levels)]
    assert float(np.square(decoded - numbers).sum()) == pytest.approx(expected, rel=1e-3)


def test_kmeans_beats_equal_steps_and_logarithmic_levels() -> None:
    numbers = np.random.default_rng(2).normal(0, 1, 100_000).astype(np.float32)
    sample = Sample.of(numbers)
    found = kmeans(sample, 16).astype(np.float64)
    # J. Max, "Quantizing for Minimum Distortion" (1960): 0.009497 for 16 levels of a normal.
    assert sample.error(found) / len(numbers) == pytest.approx(0.0095, rel=0.03)
    for other in ("log", "pow2"):
        assert sample.error(METHODS[other](sample, 16).astype(np.float64)) > sample.error(found)


def test_powers_of_two_are_powers_of_two() -> None:
    numbers = np.random.default_rng(3).normal(0, 0.07, 1000).astype(np.float32)
    levels = METHODS["pow2"](Sample.of(numbers), 16)
    assert (levels == 0).sum() == 1
    exponents = np.log2(np.abs(levels[levels != 0]))
    np.testing.assert_array_equal(exponents, np.rint(exponents))
    assert sorted([(levels > 0).sum(), (levels < 0).sum()]) == [7, 8]


def test_logarithmic_levels_have_one_ratio() -> None:
    numbers = np.random.default_rng(3).normal(0, 0.07, 1000).astype(np.float32)
    levels = METHODS["log"](Sample.of(numbers), 16)
    for side in (levels[levels > 0], -levels[levels < 0]):
        ratios = np.diff(np.log2(np.sort(side)))
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_and_few_distinct_numbers(method: str) -> None:
    levels = METHODS[method](Sample.of(np.zeros(100, np.float32)), 16)
    assert np.isfinite(levels).all()
    assert (levels[nearest(np.zeros(3), levels)] == 0).all()
    two = np.array([-1.0, 0.5] * 50, np.float32)
    levels = METHODS[method](Sample.of(two), 16)
    np.testing.assert_array_equal(levels[nearest(two, levels)], two)
