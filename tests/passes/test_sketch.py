# SPDX-License-Identifier: Apache-2.0
"""Exact sums: order and grouping do not matter, and they are sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.passes.sketch import ExactSum

# Magnitudes far apart raise the index often; two numbers make one array.
numbers = st.floats(-1e150, 1e150) | st.floats(-4, 4) | st.sampled_from([0.0, 2.0**35, -(2.0**36)])
arrays = st.lists(hnp.arrays(np.float64, 2, elements=numbers), max_size=8)


def total(*arrays: np.ndarray) -> ExactSum:
    made = ExactSum()
    for array in arrays:
        made.add(array)
    return made


def state(made: ExactSum) -> dict[str, Any]:
    return {key: array.tolist() for key, array in made.state().items()}


@given(arrays, st.randoms(use_true_random=False))
def test_order_and_partition_do_not_matter(pieces: list[np.ndarray], random: Any) -> None:
    whole = total(*pieces)
    shuffled = list(pieces)
    random.shuffle(shuffled)
    cut = random.randint(0, len(pieces))
    merged = total(*shuffled[:cut])
    merged.merge(total(*shuffled[cut:]))
    assert state(merged) == state(whole)
    np.testing.assert_array_equal(merged.value, whole.value)


LEAST = 2.0**-900  # what is smaller is taken as zero


@given(arrays)
@example([np.full(2, 2.0**-1032)])
def test_it_is_the_sum_to_within_what_is_dropped(pieces: list[np.ndarray]) -> None:
    made = total(*pieces)
    peak = max((float(np.abs(piece).max()) for piece in pieces), default=0.0)
    for index in range(2 if pieces else 0):
        exact = math.fsum(float(piece[index]) for piece in pieces)
        allowed = peak * len(pieces) * 2.0**-37 + abs(exact) * 2.0**-52
        allowed += len(pieces) * LEAST
        assert abs(made.value[index] - exact) <= allowed


def test_numbers_of_one_size_are_as_good_as_in_float64() -> None:
    pieces = np.random.default_rng(0).normal(1, 1, (1000, 5))
    exact = [math.fsum(column) for column in pieces.T]
    np.testing.assert_allclose(total(*pieces).value, exact, rtol=1e-10)


@given(arrays)
def test_it_is_stored_and_restored(pieces: list[np.ndarray]) -> None:
    made, again = total(*pieces), ExactSum()
    again.restore(made.state())
    assert state(again) == state(made)
    again.add(np.ones(2))
    made.add(np.ones(2))
    assert state(again) == state(made)


def test_what_cannot_be_added() -> None:
    made = total(np.ones(2))
    with pytest.raises(ValueError, match=r"shape \[3\] to shape \[2\]"):
        made.add(np.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        made.add(np.array([1.0, np.inf]))
    made.count = 1 << 27
    with pytest.raises(OverflowError, match="134217728"):
        made.add(np.ones(2))


def test_nothing() -> None:
    made = ExactSum()
    assert made.value.shape == (0,)
    made.merge(ExactSum())
    made.add(np.zeros(3))
    np.testing.assert_array_equal(made.value, np.zeros(3))
