# SPDX-License-Identifier: Apache-2.0
"""Adequacy: too few samples are noticed, enough are not complained about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.passes.quant.calibration.adequacy import Adequacy, Halves, Stability
from burnish.passes.quant.calibration.observers import METHODS, MinMax, Observer, Percentile


def fed(make: Callable[[], Observer], samples: list[np.ndarray]) -> Halves:
    made = Halves(make)
    for sample in samples:
        made.update(sample)
    return made


def stability(make: Callable[[], Observer], samples: list[np.ndarray]) -> Stability:
    halves = fed(make, samples)
    return Stability.of(halves, halves.whole, halves.whole.range())


def normal(count: int, size: int = 1024, scale: Any = 1.0) -> list[np.ndarray]:
    scales = np.broadcast_to(scale, count)
    rng = np.random.default_rng(0)
    return [rng.normal(0, s, size).astype(np.float32) for s in scales]


@pytest.mark.parametrize("method", METHODS)
def test_many_samples_alike_are_enough(method: str) -> None:
    found = stability(METHODS[method], normal(64))
    assert found.is_stable
    assert found.shift < 0.1


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_halves_that_differ_are_noticed(method: str) -> None:
    samples = normal(64)
    samples[7] = samples[7] * 20  # in one half alone
    assert not stability(METHODS[method], samples).is_stable


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8])
def test_samples_of_several_kinds_in_turns_are_shared_out(period: int) -> None:
    scales = [1 + index % period for index in range(64)]
    assert stability(Percentile, normal(64, scale=scales)).is_stable


def test_few_samples_of_many_kinds_are_too_few() -> None:
    assert not stability(Percentile, normal(4, scale=[1, 3, 2, 6])).is_stable


def test_what_saturates_is_counted_on_the_half_that_was_not_seen() -> None:
    even, odd = np.linspace(0, 1, 1000, dtype=np.float32), np.linspace(0, 2, 1000, dtype=np.float32)
    found = stability(lambda: Percentile(100), [even, odd])
    assert found.saturated == pytest.approx(0.5, abs=0.01)
    assert found.shift == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
@given(st.lists(st.integers(0, 5), max_size=6))
def test_the_whole_is_what_one_observer_sees(method: str, seeds: list[int]) -> None:
    samples = [np.random.default_rng(seed).normal(0, 10**seed, 20) for seed in seeds]
    single = METHODS[method]()
    for sample in samples:
        single.update(sample)
    halves = fed(METHODS[method], samples)
    again = Halves(METHODS[method])
    again.restore(halves.state())
    for found in (halves.whole, again.whole):
        assert found.range() == single.range()
        assert found.seen == single.seen


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 6))
def test_halves_merge(seeds: list[int], cut: int) -> None:
    samples = [np.random.default_rng(seed).normal(0, 10**seed, 20) for seed in seeds]
    merged = fed(Percentile, samples[:cut])
    merged.merge(fed(Percentile, samples[cut:]))
    assert merged.count == len(samples)
    assert merged.whole.range() == fed(Percentile, samples).whole.range()


def test_the_summary_names_the_worst() -> None:
    calm, wild = Stability(0.01, 0.0), Stability(0.5, 0.02)
    few = Adequacy.of({"a": calm, "b": wild}, 8)
    assert few is not None
    assert not few.is_enough
    assert str(few) == (
        "8 samples: 1 of 2 ranges differ between halves (typically by 25.5% of their width, at "
        "most 50%, 'b'); of unseen samples at most 2.00% of the numbers saturate by mistake "
        "('b')"
    )
    assert few.as_dict()["enough"] is False
    many = Adequacy.of({f"a{i}": calm for i in range(30)} | {"b": wild}, 8)
    assert many is not None
    assert many.is_enough
    ends = Adequacy.of({"a": Stability(0.1, None)}, 8)
    assert ends is not None
    assert "saturate" not in str(ends)
    assert Adequacy.of({"a": calm}, 1) is None
    assert Adequacy.of({}, 8) is None


def test_a_constant_has_no_width_to_move_in() -> None:
    assert stability(MinMax, [np.zeros(3), np.zeros(3)]).is_stable
