# SPDX-License-Identifier: Apache-2.0
"""Ratios from measured costs: the share is met, at the least cost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.passes.prune.ratios import RATIOS, allocate


def curve(scale: float) -> dict[float, float]:
    return {ratio: scale * ratio for ratio in RATIOS}


def test_what_costs_least_goes_first() -> None:
    costs = {"a": curve(1.0), "b": curve(0.01)}
    ratios = allocate({"a": 100, "b": 100}, costs, 0.5)
    assert ratios["b"] > 0.9
    assert ratios["a"] + ratios["b"] == pytest.approx(1.0)


def test_alike_weights_get_alike_ratios() -> None:
    ratios = allocate({"a": 100, "b": 300}, {"a": curve(1.0), "b": curve(3**0.5)}, 0.5)
    assert ratios == pytest.approx({"a": 0.5, "b": 0.5})


def test_what_was_not_measured_takes_the_share() -> None:
    assert allocate({"a": 10, "b": 10}, {"a": curve(1.0)}, 0.3) == pytest.approx(
        {"a": 0.3, "b": 0.3}
    )


def test_a_bump_in_the_costs_is_stepped_over() -> None:
    """Half costs more than all: only the hull counts."""
    bump = {0.25: 0.9, 0.5: 0.9, 0.7: 0.1, 0.85: 0.1, 1.0: 0.1}
    ratios = allocate({"a": 100, "b": 100}, {"a": bump, "b": curve(10.0)}, 0.5)
    assert ratios["a"] == 1.0


@given(st.data())
def test_meets_any_share_and_no_exchange_helps(data: st.DataObject) -> None:
    names = ["a", "b", "c"]
    sizes = {name: data.draw(st.integers(1, 1000)) for name in names}
    errors = st.lists(st.floats(0, 2), min_size=len(RATIOS), max_size=len(RATIOS))
    costs = {
        name: dict(zip(RATIOS, itertools.accumulate(data.draw(errors)), strict=True))
        for name in names
    }
    sparsity = data.draw(st.floats(0, 1))
    ratios = allocate(sizes, costs, sparsity)
    zeros = sum(ratios[name] * sizes[name] for name in names)
    assert zeros == pytest.approx(sparsity * sum(sizes.values()), abs=1e-6)
    assert all(0 <= ratio <= 1 for ratio in ratios.values())
    # At most one ratio lies between those that were measured.
    between = [r for r in ratios.values() if all(abs(r - known) > 1e-9 for known in (0, *RATIOS))]
    assert len(between) <= 1
