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

from burnish.passes.quant.calibration.observers import (
    Entropy,
    Histogram,
    MeanSquare,
    MinMax,
    MovingAverage,
    Observer,
    Percentile,
    Range,
    observer,
)

KINDS: list[Callable[[], Observer]] = [MinMax, MovingAverage, Percentile, Entropy, MeanSquare]

# Magnitudes far apart make the bins double many times; zeros and infinities are special cases.
numbers = st.floats(width=32) | st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0])
arrays = hnp.arrays(np.float32, st.integers(0, 30), elements=numbers)


def watch(make: Callable[[], Observer], *pieces: np.ndarray) -> Observer:
    made = make()
    for piece in pieces:
        made.update(piece)
    return made


def state(made: Observer) -> dict[str, Any]:
    return {key: value.tolist() for key, value in made.state().items()}


@pytest.mark.parametrize("make", KINDS)
@given(st.lists(arrays, max_size=6), st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(
    make: Callable[[], Observer], samples: list[np.ndarray], random: Any
) -> None:
    whole = watch(make, *samples)
    shuffled = list(samples)
    random.shuffle(shuffled)
    cut = random.randint(0, len(samples))
    merged = watch(make, *shuffled[:cut])
    merged.merge(watch(make, *shuffled[cut:]))
    assert state(merged) == state(whole)
    assert merged.range() == whole.range()


@pytest.mark.parametrize("make", [kind for kind in KINDS if kind is not MovingAverage])
@given(st.lists(arrays, max_size=6))
def test_where_a_sample_ends_does_not_matter(
    make: Callable[[], Observer], samples: list[np.ndarray]
) -> None:
    whole = watch(make, np.concatenate([np.zeros(0, np.float32), *samples]))
    assert state(watch(make, *samples)) == state(whole)


@pytest.mark.parametrize("make", KINDS)
@given(st.lists(arrays, min_size=1, max_size=4))
def test_it_is_stored_and_restored(make: Callable[[], Observer], samples: list[np.ndarray]) -> None:
    whole, first, again = watch(make, *samples), watch(make, *samples[:-1]), make()
    again.restore(first.state())
    assert state(again) == state(first)
    again.update(samples[-1])
    assert state(again) == state(whole)
    assert again.range() == whole.range()


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
    assert isinstance(observer("average")(), MovingAverage)
    assert isinstance(observer("mse")(), MeanSquare)
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


def test_a_moving_average_is_the_mean_of_the_ends_of_samples() -> None:
    samples = np.random.default_rng(0).normal(1, 1, (20, 50)).astype(np.float32)
    made = watch(MovingAverage, *samples).range()
    assert made.low == pytest.approx(samples.min(axis=1).astype(np.float64).mean(), rel=1e-9)
    assert made.high == pytest.approx(samples.max(axis=1).astype(np.float64).mean(), rel=1e-9)
    # One sample with an outlier moves it by its share only.
    samples[3, 3] = 1000
    assert watch(MovingAverage, *samples).range().high < 60


SHAPES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.normal(0, 1, 50_000),
    "laplace": lambda rng: rng.laplace(0.5, 1, 50_000),
    "relu": lambda rng: np.maximum(rng.normal(0, 1, 50_000), 0),
    "gelu-like": lambda rng: np.maximum(rng.normal(-1, 1, 50_000), -0.17),
    "outliers": lambda rng: np.concatenate([rng.normal(0, 1, 50_000), [60, -50, 55]]),
}


def squared_error(data: np.ndarray, kept: Range, levels: int) -> float:
    scale = (kept.high - kept.low) / (levels - 1)
    zero = np.rint(-kept.low / scale)
    rounded = np.clip(np.rint(data / scale) + zero, 0, levels - 1) - zero
    return float(((data - rounded * scale) ** 2).sum())


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_mean_square_is_the_best_of_all_ranges(shape: str, levels: int) -> None:
    data = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    made = watch(lambda: MeanSquare(levels=levels), data)
    shares = np.linspace(0.04, 1, 25)
    low, high = min(made.low, 0.0), max(made.high, 0.0)
    lows, highs = shares * low if low else [0.0], shares * high
    every = data.astype(np.float64)
    best = min(squared_error(every, Range(a, b), levels) for a in lows for b in highs)
    assert squared_error(every, made.range().with_zero, levels) <= best * 1.02


def test_mean_square_of_more_levels_than_the_bins_can_tell_apart_is_everything() -> None:
    made = watch(lambda: MeanSquare(levels=65536), np.array([-1, 1, 50], np.float32))
    assert made.range() == made.seen == Range(-1, 50)


def test_symmetric_mean_square() -> None:
    data = np.random.default_rng(0).normal(0.5, 1, 100_000).astype(np.float32)
    data[0] = 100
    made = watch(lambda: MeanSquare(symmetric=True), data).range()
    assert made.low == data.min()
    # One number off by 100 - t, a hundred thousand off by 2 t / 255 / sqrt(12) on average.
    assert made.high == pytest.approx(100 / (1 + 1e5 * (2 / 255) ** 2 / 12), abs=2)


def test_onnxruntime_finds_the_same_threshold_in_the_same_bins() -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    data = np.random.default_rng(0).laplace(0, 1, 500_000).astype(np.float32)
    made = watch(Entropy.onnxruntime, data)
    assert isinstance(made, Entropy)
    counts, zero, width = made.joined()
    half = max(zero, counts.size - zero)
    centred = np.zeros(2 * half)
    centred[half - zero : half - zero + counts.size] = counts
    edges = (np.arange(2 * half + 1) - half).astype(np.float32) * np.float32(width)
    collector = calibrate.HistogramCollector("entropy", False, 128, 128, 99.99, "same")
    histogram = (centred.astype(np.int64), edges, data.min(), data.max(), edges[-1])
    low, high = collector.get_entropy_threshold(histogram, 128)
    # All bins that are left over after division by 128 go to its last level.
    assert made.range().high == pytest.approx(float(high), rel=0.1)
    assert made.range().low == pytest.approx(float(low), rel=0.1)


def tensorrt_threshold(counts: np.ndarray, width: float, levels: int = 128) -> float:
    """The published algorithm, on a histogram of magnitudes, as slowly as it is written."""
    losses = []
    for stop in range(levels, counts.size + 1):
        p = counts[:stop].astype(np.float64)
        occupied = p > 0
        level = np.arange(stop) * levels // stop
        q = np.zeros(stop)
        for index in range(levels):
            inside = (level == index) & occupied
            if inside.any():
                q[inside] = p[level == index].sum() / inside.sum()
        p[-1] += counts[stop:].sum()
        p, q = p / p.sum(), q / q.sum()
        both = (p > 0) & (q > 0)
        missing = p[(p > 0) & (q == 0)].sum()
        losses.append((p[both] * np.log(p[both] / q[both])).sum() + 1e3 * missing)
    return (levels + int(np.argmin(losses))) * width


@pytest.mark.parametrize("shape", ["normal", "laplace", "relu"])
def test_the_published_algorithm_finds_the_same_threshold_in_the_same_bins(shape: str) -> None:
    data = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    made = watch(Entropy.tensorrt, data)
    assert isinstance(made, Entropy)
    counts, zero, width = made.joined()
    assert zero == 0
    assert 1024 <= counts.size <= 2048
    assert counts.sum() == np.count_nonzero(data)
    expected = min(tensorrt_threshold(counts, width), float(np.abs(data).max()))
    reach = max(-made.range().low, made.range().high)
    assert reach == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_how_much_lies_outside_a_range(shape: str) -> None:
    data = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    made = watch(Percentile, data)
    for low, high in ((-1.0, 1.0), (0.0, 0.5), (-0.1, 3.0), (-100.0, 100.0)):
        counted = float(np.mean((data < low) | (data > high)))
        # The bin that holds an end is taken as filled evenly.
        assert made.outside(Range(low, high)) == pytest.approx(counted, abs=0.01)
    assert made.outside(made.seen) == 0.0
    if shape in ("normal", "laplace", "outliers"):  # the others pile up in an outermost bin
        assert made.outside(made.range()) == pytest.approx(1e-4, rel=0.3)


def test_ends_alone_do_not_tell_how_much_lies_outside() -> None:
    made = watch(MinMax, np.array([0.0, 2.0], np.float32))
    assert made.outside(Range(0, 2)) == 0.0
    assert made.outside(Range(0, 1)) is None
    assert watch(MinMax).outside(Range(0, 1)) == 0.0
    assert watch(Percentile).outside(Range(0, 1)) == 0.0
