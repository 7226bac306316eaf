# SPDX-License-Identifier: Apache-2.0
"""Comparing with the float model, holding samples out, and searching by bisection."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.quant.search.sensitivity import (
    SAMPLES,
    Reference,
    fewest_float,
    groups,
    held_out,
    not_held_out,
)


def samples(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.array([index, 1.0], np.float32)} for index in range(count)]


def test_likeness_of_a_model_with_itself_and_with_a_turned_one() -> None:
    reference = Reference(lambda feeds: {"y": feeds["x"]}, samples(4)[2:])
    same = reference.compare(lambda feeds: {"y": feeds["x"]})
    assert [same.cosine, same.error, same.same] == pytest.approx([1, 0, 1])
    # [2, 1] and [3, 1] against [1, 2] and [1, 3]: cosines 4/5 and 6/10, errors 2 and 8 of 15.
    turned = reference.compare(lambda feeds: {"y": feeds["x"][::-1]})
    assert turned.cosine == pytest.approx((4 / 5 + 6 / 10) / 2)
    assert turned.error == pytest.approx((10 / 15) ** 0.5)
    assert turned.same == 0


def test_integers_are_not_compared_and_nan_is_unlike() -> None:
    reference = Reference(lambda _: {"y": np.ones(3), "i": np.arange(3)}, samples(1))
    assert reference.compare(lambda _: {"y": np.ones(3), "i": np.zeros(3)}).cosine == pytest.approx(
        1
    )
    assert reference.compare(lambda _: {"y": np.full(3, np.nan), "i": np.zeros(3)}).cosine == 0


@pytest.mark.parametrize("count", [0, 3, 4, 40, 200])
def test_samples_are_either_held_out_or_not(count: int) -> None:
    def firsts(found: object) -> list[float]:
        return [feeds["x"][0] for feeds in found]  # type: ignore[attr-defined]

    out, kept = firsts(held_out(samples(count))), firsts(not_held_out(samples(count)))
    assert sorted(out + kept) == list(range(count))
    assert len(out) == min(count // 4, SAMPLES)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_bisection_finds_the_fewest_that_do(count: int) -> None:
    for least in range(1, count + 1):
        tried: list[int] = []

        def passes(number: int, least: int = least, tried: list[int] = tried) -> bool:
            tried.append(number)
            return number >= least

        assert fewest_float(count, passes, 10) == least
        assert len(tried) <= count.bit_length()
    assert fewest_float(count, lambda _: True, 0) == count  # no budget: what is known to do


def test_groups_are_neighbours_and_cover_all() -> None:
    assert [list(piece) for piece in groups(5, 2)] == [[0, 1], [2, 3, 4]]
    assert [len(piece) for piece in groups(3, 10)] == [1, 1, 1]
    assert groups(0, 4) == []
