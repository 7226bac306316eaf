# SPDX-License-Identifier: Apache-2.0
"""Timing that tells variants apart when they differ and admits it when they do not."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from burnish.backends.feeds import random_feeds
from burnish.backends.measure import Comparison, _student, compare, compare_loads, summarize
from burnish.backends.onnxruntime import session
from burnish.errors import InputError
from burnish.testing import parse


class Sleeper:
    """A variant that takes a given time and writes down that it ran."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.log.append(self.name)
        time.sleep(self.seconds)
        return {}


def test_two_variants_take_turns_in_both_orders() -> None:
    log: list[str] = []
    variants = {name: Sleeper(name, 0, log) for name in "AB"}
    result = compare(variants, {}, repeats=3, warmup=1)
    assert "".join(log) == "AB" + "AB" + "BA" + "AB"
    assert result.rounds == 3
    assert [timing.name for timing in result.timings] == ["A", "B"]


def test_none_of_several_variants_has_warm_caches_more_often_than_others() -> None:
    log: list[str] = []
    names = "ABCD"
    compare({name: Sleeper(name, 0, log) for name in names}, {}, repeats=400, warmup=0)
    rounds = ["".join(log[i : i + 4]) for i in range(0, len(log), 4)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    follows = Counter(itertools.pairwise(log))
    assert not any(follows[name, name] for name in names)
    # 12 pairs, each 133 times: within four standard deviations.
    assert all(90 < follows[pair] < 180 for pair in itertools.permutations(names, 2))


def test_the_budget_ends_the_rounds() -> None:
    log: list[str] = []
    result = compare({"A": Sleeper("A", 0.02, log)}, {}, repeats=1000, warmup=0, budget=0.1)
    assert 1 <= result.rounds <= 6
    assert compare({"A": Sleeper("A", 0, log)}, {}, repeats=9, budget=0).rounds == 1


@pytest.mark.parametrize(("enough", "rounds"), [(True, 8), (False, 32)])
def test_whether_rounds_are_enough_is_asked_once_after_a_quarter(enough: bool, rounds: int) -> None:
    asked: list[Comparison] = []
    log: list[str] = []

    def look(found: Comparison) -> bool:
        asked.append(found)
        return enough

    variants = {name: Sleeper(name, 0.0001, log) for name in "AB"}
    found = compare(variants, {}, repeats=32, warmup=1, enough=look)
    assert [item.rounds for item in asked] == [8]
    assert found.rounds == rounds
    assert Counter(log) == {"A": rounds + 1, "B": rounds + 1}


def test_two_parts_of_the_rounds_share_one_budget() -> None:
    variants = {"A": Sleeper("A", 0.01, [])}
    found = compare(variants, {}, repeats=1000, warmup=0, budget=0.2, enough=lambda _: False)
    assert found.rounds < 22


def test_nothing_to_measure_is_bad_input() -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        compare({}, {})
    with pytest.raises(InputError, match="at least 1 repeat"):
        compare({"A": Sleeper("A", 0, [])}, {}, repeats=0)


def test_real_models_that_differ_are_told_apart() -> None:
    nodes = " ".join(f"t{i + 1} = MatMul(t{i}, t0)" for i in range(6))
    model = "g (float[192,192] t0) => (float[192,192] y) {{ {} y = Neg(t{}) }}"
    short = session(parse(model.format("t1 = MatMul(t0, t0)", 1)))
    long = session(parse(model.format(nodes, 6)))
    feeds = random_feeds(short)
    result = compare({"long": long, "short": short}, feeds, repeats=20)
    timing = result["short"]
    assert timing.verdict == "faster"
    assert 2 < timing.low < timing.speedup < timing.high < 20  # six products against one
    assert timing.p10 <= timing.median <= timing.p90
    assert "faster" in str(result)
    assert compare({"short": short, "long": long}, feeds, repeats=20)["long"].verdict == "slower"


def test_each_variant_can_have_its_own_inputs() -> None:
    one = session(parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"))
    other = session(parse("g (double[3] z) => (double[3] y) { y = Neg(z) }"))
    feeds = {"one": random_feeds(one), "other": random_feeds(other)}
    assert compare({"one": one, "other": other}, feeds, repeats=2).rounds == 2


def rounds(rng: np.random.Generator, ratio: float, noise: float, n: int = 40) -> Any:
    """Two variants whose rounds share a drift far larger than their own noise."""
    drift = np.exp(rng.normal(0, 0.3, n))
    own = np.exp(rng.normal(0, noise, (2, n)))
    return summarize({"a": drift * own[0], "b": drift * own[1] / ratio})


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = sum(
        timing.low <= 1.2 <= timing.high
        for timing in (rounds(rng, 1.2, 0.05)["b"] for _ in range(200))
    )
    assert held >= 180  # of 95 %; a median of 40 is discrete, and errs on the wide side


def test_equals_are_not_told_apart() -> None:
    rng = np.random.default_rng(1)
    verdicts = [rounds(rng, 1.0, 0.05)["b"].verdict for _ in range(200)]
    assert verdicts.count("same") >= 190
    assert "cannot be told apart" in str(rounds(rng, 1.0, 0.05)["b"])


def test_a_difference_below_the_resolution_is_not_claimed() -> None:
    timing = rounds(np.random.default_rng(2), 1.005, 1e-5)["b"]
    assert timing.verdict == "same"


def test_few_rounds_say_nothing() -> None:
    timing = summarize({"a": np.full(3, 2.0), "b": np.full(3, 1.0)})["b"]
    assert timing.speedup == 2
    assert timing.verdict == "same"


def test_the_baseline_is_the_same_as_itself() -> None:
    result = rounds(np.random.default_rng(3), 2, 0.1)
    assert (result["a"].low, result["a"].high, result["a"].verdict) == (1, 1, "same")
    with pytest.raises(KeyError):
        result["c"]


class Loaded(Sleeper):
    """A variant that is slower or faster for as long as it is loaded."""

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append("closed")


def test_an_interval_over_loads_covers_what_differs_between_loads() -> None:
    # Within a load, rounds agree to a percent; loads differ by a tenth.
    rng = np.random.default_rng(0)
    log: list[str] = []
    scales = iter(rng.uniform(0.95, 1.05, 32))
    variants = {
        name: lambda name=name, ms=ms: Loaded(name, 1e-3 * ms * next(scales), log)
        for name, ms in (("A", 4.0), ("B", 2.0))
    }
    found = compare_loads(variants, {}, loads=6, repeats=18, warmup=1)
    assert (found.rounds, found.loads) == (18, 6)
    assert log.count("closed") == 12
    timing = found["B"]
    assert timing.low < 2 < timing.high
    assert timing.verdict == "faster"
    assert timing.high / timing.low > 1.02
    assert found["A"].low == found["A"].high == found["A"].speedup == 1.0
    with pytest.raises(InputError, match="at least 1 repeat and 2 loads"):
        compare_loads(variants, {}, loads=1)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (4, 2.776), (7, 2.365), (30, 2.042)]
)
def test_students_t(freedom: int, expected: float) -> None:
    assert _student(freedom) == pytest.approx(expected, rel=3e-3)
