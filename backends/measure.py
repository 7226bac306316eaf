# SPDX-License-Identifier: Apache-2.0
"""How fast variants of a model are against each other.

Clocks drift: frequency, temperature and neighbours change over seconds. So variants are timed in
turns, A B then B A, and compared within each round; what is quoted is a ratio with its spread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


class Runnable(Protocol):
    """What can be timed: a session, of whichever backend."""

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs from feeds."""


RESOLUTION = 0.01
"""Speed-ups nearer to 1 than this are not claimed. Two loads of one and the same model differ by
about as much, because their buffers lie elsewhere in memory, however long they are timed."""

_FEWEST_ROUNDS = 6  # a median of fewer has no interval of 95 %: 2 * 0.5**5 > 5 %
_RESAMPLES = 2000


@dataclass(frozen=True)
class Timing:
    """Seconds that one run of a variant takes, and how they compare with the first variant.

    Attributes:
        name: Name of the variant.
        median: Median of the rounds.
        p10: 10th percentile.
        p90: 90th percentile.
        p99: 99th percentile.
        speedup: Median of the first variant over the median of this one: above 1 is faster.
        low: Lower end of the 95 % confidence interval of `speedup`.
        high: Upper end.
    """

    name: str
    median: float
    p10: float
    p90: float
    p99: float
    speedup: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """How it compares with the first variant: ``faster``, ``slower`` or ``same``.

        ``same`` says that they cannot be told apart: the interval reaches into `RESOLUTION`
        around 1.
        """
        if self.low > 1 + RESOLUTION:
            return "faster"
        return "slower" if self.high < 1 - RESOLUTION else "same"

    def __str__(self) -> str:
        ratio = f"{self.speedup:.3f}x ({self.low:.3f} to {self.high:.3f})"
        apart = "cannot be told apart" if self.verdict == "same" else self.verdict
        return f"{self.name}: {1e3 * self.median:.3g} ms, {ratio}, {apart}"


@dataclass(frozen=True)
class Comparison:
    """Timings of variants, in the order given; the first is what the others are compared with.

    Attributes:
        timings: One a variant.
        rounds: How often each ran.
        loads: How often each was loaded.
    """

    timings: tuple[Timing, ...]
    rounds: int
    loads: int = 1

    def __getitem__(self, name: str) -> Timing:
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(map(str, self.timings))


def compare(
    variants: Mapping[str, Runnable],
    feeds: Mapping[str, Array] | Mapping[str, Mapping[str, Array]],
    *,
    repeats: int = 30,
    warmup: int = 3,
    budget: float = 60.0,
    enough: Callable[[Comparison], bool] | None = None,
) -> Comparison:
    """Time variants in turns.

    Args:
        variants: Sessions by name. The first is the baseline.
        feeds: Inputs for each run; or, where the variants differ in their inputs, inputs by name
            of variant.
        repeats: Rounds; in each, every variant runs once. Their order changes from one round to
            the next; none runs twice in a row where there are more than two.
        warmup: Runs of each variant that are not counted.
        budget: Seconds after which no further round is started, though at least one is made.
        enough: Is asked after a quarter of the budget, and of the rounds, whether these tell all
            that is to be known; then no more are made. Once: who looks after each round stops at
            the first that happens to please.

    Raises:
        InputError: there is no variant, or `repeats` is less than 1.
    """
    if not variants or repeats < 1:
        raise InputError("there is nothing to measure", hint="give a model and at least 1 repeat")
    start = time.perf_counter()
    if enough is None:
        return summarize(_rounds(variants, feeds, repeats, warmup, start + budget))
    first = _rounds(variants, feeds, math.ceil(repeats / 4), warmup, start + budget / 4)
    found = summarize(first)
    left = repeats - found.rounds
    if left < 1 or time.perf_counter() > start + budget or enough(found):
        return found
    rest = _rounds(variants, feeds, left, 0, start + budget)
    return summarize({name: np.concatenate([first[name], rest[name]]) for name in variants})


def _rounds(
    variants: Mapping[str, Runnable],
    feeds: Mapping[str, Any],
    repeats: int,
    warmup: int,
    deadline: float,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each variant, one entry per round."""
    own = {name: _own_feeds(feeds, name, variants) for name in variants}
    for _ in range(warmup):
        for name, variant in variants.items():
            variant.run(own[name])
    order, rng = list(variants), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(repeats):
        for name in order:
            run, arrays = variants[name].run, own[name]
            start = time.perf_counter()
            run(arrays)
            seconds[name].append(time.perf_counter() - start)
        order = _next_order(order, rng)
        if time.perf_counter() > deadline:
            break
    return {name: np.array(seconds[name]) for name in variants}


def _next_order(order: list[str], rng: np.random.Generator) -> list[str]:
    """Draw an order in which no variant follows itself: its weights would lie in the caches.

    Of two variants either does so every other time, which is fair too.
    """
    if len(order) < 3:
        return order[::-1]
    drawn = [str(name) for name in rng.permutation(order)]
    return drawn if drawn[0] != order[-1] else drawn[1:] + drawn[:1]


def compare_loads(
    variants: Mapping[str, Callable[[], AbstractContextManager[Runnable]]],
    feeds: Mapping[str, Array] | Mapping[str, Mapping[str, Array]],
    *,
    loads: int = 8,
    repeats: int = 50,
    warmup: int = 3,
    budget: float = 60.0,
) -> Comparison:
    """Time variants in turns, loading them anew several times.

    Where buffers come to lie in memory makes one load of a model faster than another by a few
    percent, for as long as it is loaded. So rounds of one load agree better with each other than
    with those of the next, and an interval made from them alone would not repeat. Here it is
    Student's, over the logarithms of the ratios of medians of each load.

    Args:
        variants: Functions that load a variant, by name. The first is the baseline.
        feeds: As for `compare`.
        loads: How often all of them are loaded; at least 2.
        repeats: Rounds in all, shared among the loads.
        warmup: Runs of each variant after each load that are not counted.
        budget: Seconds after which no further load or round is started; shared among the loads.

    Raises:
        InputError: there is no variant, or too few loads or repeats.
    """
    if not variants or repeats < 1 or loads < 2:
        raise InputError(
            "there is nothing to measure", hint="give a model, at least 1 repeat and 2 loads"
        )
    start = time.perf_counter()
    found: list[dict[str, NDArray[np.float64]]] = []
    for index in range(loads):
        with contextlib.ExitStack() as stack:
            # Who is loaded first gets the better place: each in turn.
            first = index % len(variants)
            names = [*list(variants)[first:], *list(variants)[:first]]
            opened = {name: stack.enter_context(variants[name]()) for name in names}
            running = {name: opened[name] for name in variants}
            share = start + budget * (index + 1) / loads
            found.append(_rounds(running, feeds, math.ceil(repeats / loads), warmup, share))
        if time.perf_counter() > start + budget:
            break
    pooled = {name: np.concatenate([load[name] for load in found]) for name in variants}
    whole = summarize(pooled)
    medians = np.array([[np.median(load[name]) for name in variants] for load in found])
    ratios = np.log(medians[:, :1] / medians)  # [loads, variants]
    middle, spread = ratios.mean(axis=0), np.full(len(variants), math.inf)
    if len(found) > 1:
        spread = ratios.std(axis=0, ddof=1) * _student(len(found) - 1) / math.sqrt(len(found))
    spread[0] = 0.0
    return dataclasses.replace(
        whole,
        timings=tuple(
            dataclasses.replace(
                timing,
                speedup=float(np.exp(middle[i])),
                low=float(np.exp(middle[i] - spread[i])),
                high=float(np.exp(middle[i] + spread[i])),
            )
            for i, timing in enumerate(whole.timings)
        ),
        loads=len(found),
    )


def _student(freedom: int) -> float:
    """97.5th percentile of Student's t (Abramowitz and Stegun, 26.7.5); within 0.3 % from 4 on.

    The few that the expansion does not reach are from its table 26.10.
    """
    few = {1: 12.706, 2: 4.303, 3: 3.182}
    if freedom in few:
        return few[freedom]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return sum(terms)


def _own_feeds(
    feeds: Mapping[str, Any], name: str, variants: Mapping[str, Runnable]
) -> Mapping[str, Array]:
    by_variant = set(feeds) == set(variants) and all(isinstance(f, Mapping) for f in feeds.values())
    own: Mapping[str, Array] = feeds[name] if by_variant else feeds
    return own


def summarize(seconds: Mapping[str, NDArray[np.float64]]) -> Comparison:
    """Compare variants from their seconds, one entry per round, rounds in step.

    The interval is the percentile bootstrap over rounds (Efron and Tibshirani, An Introduction to
    the Bootstrap, 13.3): a round is drawn with all its variants, so that what slows a whole round
    down cancels in the ratio.
    """
    names = list(seconds)
    table = np.stack([seconds[name] for name in names])  # [variants, rounds]
    rounds = table.shape[1]
    medians = np.median(table, axis=1)
    tails = np.percentile(table, [10, 90, 99], axis=1)
    if rounds < _FEWEST_ROUNDS:
        low, high = np.zeros(len(names)), np.full(len(names), math.inf)
    else:
        draws = np.random.default_rng(0).integers(rounds, size=(_RESAMPLES, rounds))
        drawn = np.stack([np.median(row[draws], axis=1) for row in table])
        low, high = np.percentile(drawn[0] / drawn, [2.5, 97.5], axis=1)
    low[0] = high[0] = 1.0
    return Comparison(
        tuple(
            Timing(
                name,
                *map(float, (medians[i], *tails[:, i], medians[0] / medians[i], low[i], high[i])),
            )
            for i, name in enumerate(names)
        ),
        rounds,
    )
