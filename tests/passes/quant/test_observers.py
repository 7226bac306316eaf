# SPDX-License-Identifier: Apache-2.0
"""Observers: merge exactly, forget the data, agree with NumPy on known distributions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.passes.quant.observers import (
    Entropy,
    Histogram,
    MinMax,
    Observer,
    Percentile,
    Range,
    observer,
)

KINDS: list[Callable[[], Observer]] = [MinMax, Percentile, Entropy]

# Magnitudes far apart make the bins double many times; zeros and infinities are special cases.
numbers = st.floats(width=32) | st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0])
arrays = hnp.arrays(np.float32, st.integers(0, 30), elements=numbers)


def watch(make: Callable[[], Observer], *pieces: np.ndarray) -> Observer:
    made = make()
    for piece in pieces:
        made.update(piece)
    return made


def state(made: Observer) -> dict[str, Any]:
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(made).items()
    }


@pytest.mark.parametrize("make", KINDS)
@given(st.lists(arrays, max_size=6), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(
    make: Callable[[], Observer], pieces: list[np.ndarray], random: Any
) -> None:
    whole = watch(make, np.concatenate([np.zeros(0, np.float32), *pieces]))
    shuffled = list(pieces)
    random.shuffle(shuffled)
    half = len(pieces) // 2
    merged = watch(make, *shuffled[:half])
    merged.merge(watch(make, *shuffled[half:]))
    assert state(merged) == state(whole)
    assert merged.range() == whole.range()


@given(arrays)
def test_every_number_is_counted_in_its_bin(array: np.ndarray) -> None:
    made = watch(Histogram_, array)
    assert isinstance(made, Histogram)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert made.nonfinite == array.size - finite.size
    assert made.counts.sum() == finite.size
    assert made.counts.size <= Histogram.BINS
    if made.exponent is not None:
        expected = np.floor(finite / made.width).astype(int) - made.first
        np.testing.assert_array_equal(
            made.counts, np.bincount(expected, minlength=made.counts.size)
        )


class Histogram_(Histogram):
    def range(self) -> Range:
        return self.seen


def test_memory_does_not_depend_on_the_number_of_samples() -> None:
    rng = np.random.default_rng(0)
    made = Percentile()
    sizes = []
    for scale in (1, 10, 100, 1000):
        for _ in range(20):
            made.update(rng.normal(0, scale, 1000).astype(np.float32))
        sizes.append(made.counts.nbytes + sys.getsizeof(made))
    assert max(sizes) <= Histogram.BINS * 8 + 1000


def test_resolution_stays_within_a_4096th_of_the_range() -> None:
    rng = np.random.default_rng(0)
    made = Percentile()
    for scale in np.geomspace(1e-6, 1e6, 50):
        made.update((rng.normal(0, 1, 100) * scale).astype(np.float32))
        assert made.width <= (made.high - made.low) / 4095


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("distribution", ["normal", "uniform", "exponential", "relu"])
def test_percentile_agrees_with_numpy(percent: float, distribution: str) -> None:
    rng = np.random.default_rng(1)
    data = {
        "normal": rng.normal(3, 2, 200_000),
        "uniform": rng.uniform(-1, 5, 200_000),
        "exponential": rng.exponential(1, 200_000),
        "relu": np.maximum(rng.normal(0, 1, 200_000), 0),
    }[distribution].astype(np.float32)
    made = Percentile(percent)
    for piece in np.array_split(data, 7):
        made.update(piece)
    tail = (100 - percent) / 2
    low, high = np.percentile(data, [tail, 100 - tail])
    # A bin, and the distance between neighbouring samples in the tail.
    assert made.range().low == pytest.approx(low, abs=made.width + 1e-2 * abs(low))
    assert made.range().high == pytest.approx(high, abs=made.width + 1e-2 * abs(high))


def test_percentile_drops_an_outlier_and_minmax_keeps_it() -> None:
    data = np.random.default_rng(2).uniform(-1, 1, 1_000_000).astype(np.float32)
    data[123] = 40.0
    assert watch(MinMax, data).range().high == 40.0
    cut = watch(lambda: Percentile(99.99), data).range()
    assert cut.low == pytest.approx(-1, abs=0.01)
    assert cut.high == pytest.approx(1, abs=0.01)


def test_entropy_keeps_all_of_a_uniform_distribution() -> None:
    data = np.random.default_rng(3).uniform(-2, 2, 500_000).astype(np.float32)
    kept = watch(Entropy, data).range()
    assert kept.high == pytest.approx(2, rel=0.02)
    assert kept.low == pytest.approx(-2, rel=0.02)


def test_entropy_clips_a_few_far_outliers() -> None:
    rng = np.random.default_rng(4)
    data = rng.normal(0, 1, 500_000).astype(np.float32)
    data[:5] = [50, -45, 48, 39, -50]
    kept = watch(Entropy, data).range()
    # Within the bulk and a few standard deviations beyond it, far from the outliers.
    assert 3 < kept.high < 15
    assert -15 < kept.low < -3


def test_entropy_is_not_misled_by_the_zeros_of_a_relu() -> None:
    rng = np.random.default_rng(5)
    positive = rng.gamma(2.0, 1.0, 100_000).astype(np.float32)
    with_zeros = np.concatenate([positive, np.zeros(2_000_000, np.float32)])
    assert watch(Entropy, with_zeros).range().high == watch(Entropy, positive).range().high


@pytest.mark.parametrize("make", KINDS)
def test_nothing_only_zeros_one_number(make: Callable[[], Observer]) -> None:
    assert watch(make).range() == Range(0, 0)
    assert watch(make, np.zeros(5, np.float32)).range() == Range(0, 0)
    assert watch(make, np.full(5, 3.0, np.float32)).seen == Range(3, 3)
    assert watch(make, np.full(5, 3.0, np.float32)).range().high == pytest.approx(3)
    assert watch(make, np.full(5, -1e-30, np.float32)).range().low == pytest.approx(-1e-30)


@pytest.mark.parametrize("make", KINDS)
def test_nan_and_infinity_are_counted_and_left_out(make: Callable[[], Observer]) -> None:
    made = watch(make, np.array([1, np.nan, -2, np.inf, -np.inf], np.float32))
    assert made.nonfinite == 3
    assert made.seen == Range(-2, 1)
    nothing = watch(make, np.array([np.nan, np.inf], np.float32))
    assert nothing.nonfinite == 2
    assert nothing.range() == Range(0, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types(dtype: Any) -> None:
    data = np.array([-1.5, 0.25, 2.0], dtype)
    assert watch(Percentile, data).seen == Range(-1.5, 2.0)
    assert state(watch(Percentile, data)) == state(watch(Percentile, data.astype(np.float64)))


def test_many_doublings_at_once() -> None:
    made = watch(Histogram_, *(np.array([x], np.float32) for x in (1e-38, -1e-20, 1.0, 3e38)))
    assert isinstance(made, Histogram)
    assert made.counts.sum() == 4
    assert made.counts[-made.first] == 3 - 1
    assert made.counts[0] == 1


def test_a_tiny_negative_number_does_not_underflow_into_the_bin_above() -> None:
    made = watch(Histogram_, np.array([6.87e10, -7.9e-39], np.float32))
    assert isinstance(made, Histogram)
    assert made.counts[0] == 1


def test_names() -> None:
    assert isinstance(observer("minmax")(), MinMax)
    assert isinstance(observer("entropy")(), Entropy)
    made = observer("percentile", percentile=99)()
    assert isinstance(made, Percentile)
    assert made.percent == 99
    with pytest.raises(ValueError, match="percent"):
        Percentile(30)


def test_exponent_is_the_smallest_that_fits() -> None:
    for low, high in pairwise(np.sort(np.random.default_rng(6).normal(0, 1e3, 200))):
        made = watch(Histogram_, np.array([low, high], np.float64))
        assert isinstance(made, Histogram)
        finer = math.ldexp(made.width, -1)
        low, high = min(low, 0), max(high, 0)
        assert math.floor(high / finer) - math.floor(low / finer) + 1 > Histogram.BINS
