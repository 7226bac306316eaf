# SPDX-License-Identifier: Apache-2.0
"""Levels of non-uniform quantizers: which few numbers stand for many with the least squared error.

    kmeans   whichever numbers are best: optimal k-means of one dimension
    log      0 and +-s * b**-j, with s and b searched for
    pow2     the same with b = 2 and s a power of two: products become shifts

In one dimension, k-means is solved exactly by dynamic programming over the sorted numbers, since
clusters are intervals (H. Wang, M. Song, "Ckmeans.1d.dp", 2011). Here the ends of the intervals are
first restricted to a few hundred candidates, and Lloyd's iterations (1982) over all numbers then
move them freely; with fewer numbers than candidates, the first step alone is exact. Logarithmic
levels are those of D. Miyashita et al., "Convolutional Neural Networks using Logarithmic Data
Representation" (2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]
Levels = NDArray[np.float32]

# Ends of intervals considered, for few and for many numbers: time grows with their square, and
# Lloyd's iterations make up for the rest.
_FEWEST, _MOST = 96, 512
_ROUNDS = 50
_CLIPS = np.linspace(1.0, 0.5, 11)
_BASES = 2.0 ** np.array([0.25, 0.5, 0.75, 1.0])


@dataclass(frozen=True)
class Sample:
    """Sorted numbers with the sums from which errors follow.

    Attributes:
        numbers: float64 [n], sorted.
        sums: float64 [n + 1], of the numbers before each place.
        squares: float64 [n + 1], of their squares.
    """

    numbers: Array
    sums: Array
    squares: Array

    @staticmethod
    def of(numbers: Array) -> Sample:
        """Sort numbers of any shape."""
        ordered = np.sort(numbers.reshape(-1)).astype(np.float64)
        zero = np.zeros(1)
        return Sample(
            ordered,
            np.concatenate([zero, ordered.cumsum()]),
            np.concatenate([zero, np.square(ordered).cumsum()]),
        )

    def error(self, levels: Array) -> float:
        """Return the squared error if each number becomes the nearest of sorted levels."""
        ends = self._ends(levels)
        count, total, squares = np.diff(ends), np.diff(self.sums[ends]), np.diff(self.squares[ends])
        return float((squares - 2 * levels * total + levels**2 * count).sum())

    def refined(self, levels: Array) -> Array:
        """Move sorted levels to the means of what is nearest to them, until none moves (Lloyd)."""
        for _ in range(_ROUNDS):
            ends = self._ends(levels)
            count, total = np.diff(ends), np.diff(self.sums[ends])
            moved = np.where(count > 0, total / np.maximum(count, 1), levels)
            if (moved == levels).all():
                break
            levels = moved
        return levels

    def _ends(self, levels: Array) -> Array:
        inner = np.searchsorted(self.numbers, (levels[:-1] + levels[1:]) / 2)
        return np.concatenate([[0], inner, [len(self.numbers)]])


def kmeans(sample: Sample, count: int) -> Levels:
    """Return `count` sorted levels of least squared error; equal ones if there are too many."""
    wanted = min(max(len(sample.numbers) // 8, _FEWEST), _MOST)
    ends = _candidates(sample, max(wanted, 2 * count))
    places, sums, squares = ends.astype(np.float64), sample.sums[ends], sample.squares[ends]
    size = np.maximum(places[None, :] - places[:, None], 1)
    total = sums[None, :] - sums[:, None]
    # cost[a, b]: squared error of one level for the numbers between ends a and b.
    cost = np.maximum(squares[None, :] - squares[:, None] - total**2 / size, 0)
    cost[np.tril_indices(len(ends), -1)] = np.inf
    best, choices = cost[0], []
    for _ in range(count - 1):
        through = best[:, None] + cost
        choices.append(through.argmin(axis=0))
        best = np.take_along_axis(through, choices[-1][None], axis=0)[0]
    cuts = [len(ends) - 1]
    for choice in reversed(choices):
        cuts.append(int(choice[cuts[-1]]))
    cuts = [0, *reversed(cuts)]
    means = [
        total[a, b] / (places[b] - places[a]) if places[b] > places[a] else np.nan
        for a, b in pairwise(cuts)
    ]
    levels = np.sort(np.array(means))  # the unused ones last
    levels = np.where(np.isnan(levels), np.nanmax(levels), levels)
    return sample.refined(levels).astype(np.float32)


def logarithmic(sample: Sample, count: int) -> Levels:
    """Return 0 and powers of one base, times one scale, the best of those tried."""
    largest = _largest(sample)
    return _best(
        sample, [_powers(sample, count, clip * largest, b) for b in _BASES for clip in _CLIPS]
    )


def powers_of_two(sample: Sample, count: int) -> Levels:
    """Return 0 and powers of two, the best of those tried."""
    top = np.ceil(np.log2(_largest(sample)))
    return _best(sample, [_powers(sample, count, 2.0 ** (top - i), 2.0) for i in range(4)])


METHODS: dict[str, Callable[[Sample, int], Levels]] = {
    "kmeans": kmeans,
    "log": logarithmic,
    "pow2": powers_of_two,
}
"""What finds levels, by its name: from a sample and the number of levels wanted."""


def nearest(numbers: Array, levels: Levels) -> NDArray[np.uint8]:
    """Return for each number the index of the nearest of at most 256 sorted levels."""
    middles = (levels[:-1].astype(np.float64) + levels[1:]) / 2
    return np.searchsorted(middles, numbers).astype(np.uint8)


def _candidates(sample: Sample, count: int) -> Array:
    """Return places where intervals may end: half with equal counts, half with equal widths."""
    n = len(sample.numbers)
    if n <= count:
        return np.arange(n + 1)
    by_count = np.linspace(0, n, count // 2 + 1).astype(np.int64)
    widths = np.linspace(sample.numbers[0], sample.numbers[-1], count // 2)
    return np.unique(np.concatenate([by_count, np.searchsorted(sample.numbers, widths)]))


def _largest(sample: Sample) -> float:
    largest = max(-sample.numbers[0], sample.numbers[-1])
    return float(largest) if largest > 0 else 1.0


def _powers(sample: Sample, count: int, scale: float, base: float) -> Array:
    """Return 0 and powers either side of it; the side that reaches further has one more."""
    sizes = scale * base ** -np.arange(count // 2, dtype=np.float64)
    further = sizes if sample.numbers[-1] >= -sample.numbers[0] else -sizes
    shorter = -further[: count - 1 - count // 2]
    return np.sort(np.concatenate([further, [0.0], shorter]))


def _best(sample: Sample, candidates: list[Array]) -> Levels:
    return min(candidates, key=sample.error).astype(np.float32)
