# SPDX-License-Identifier: Apache-2.0
"""Streaming observers: what range of a value is worth representing in eight bits?

An observer is fed arrays and keeps a sketch of them, never the arrays: its memory does not depend
on how many there were. Two sketches of the same kind merge exactly: halves observed apart and then
merged equal the whole observed at once, to the last bit.

    MinMax      everything that occurred
    Percentile  all but the outermost fraction of it
    Entropy     the range that loses least information (TensorRT's calibration)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Array = np.ndarray[Any, np.dtype[Any]]

# Arrays are sketched a piece at a time, so that temporary copies stay small.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Range:
    """A closed interval of real numbers, `low <= high`."""

    low: float
    high: float


class Observer(ABC):
    """Watches one value of a model over many samples.

    Attributes:
        low: Smallest finite number seen; infinity before there was one.
        high: Largest finite number seen; minus infinity before there was one.
        nonfinite: How many NaN and infinities were seen; they are not part of the sketch.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.nonfinite = 0

    def update(self, array: Array) -> None:
        """Observe an array of floating-point numbers of any shape."""
        flat = np.asarray(array).reshape(-1)
        if flat.dtype.itemsize < 4:
            flat = flat.astype(np.float32)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            low, high = float(piece.min()), float(piece.max())
            if not (math.isfinite(low) and math.isfinite(high)):  # NaN passes through min and max
                finite = np.isfinite(piece)
                self.nonfinite += int(piece.size - np.count_nonzero(finite))
                piece = piece[finite]
                if piece.size == 0:
                    continue
                low, high = float(piece.min()), float(piece.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
            self._sketch(piece)

    def merge(self, other: Self) -> None:
        """Take over what another observer of the same kind saw."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.nonfinite += other.nonfinite
        self._merge(other)

    @property
    def seen(self) -> Range:
        """Everything finite that occurred; `Range(0, 0)` if nothing did."""
        return Range(self.low, self.high) if self.low <= self.high else Range(0.0, 0.0)

    @abstractmethod
    def range(self) -> Range:
        """The range to represent, within `seen`."""

    @abstractmethod
    def _sketch(self, piece: Array) -> None:
        """Add finite numbers to the sketch; `low` and `high` cover them already."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Add another sketch to this one; `low` and `high` cover both already."""


class MinMax(Observer):
    """The whole range that occurred: nothing saturates on the calibration data."""

    def range(self) -> Range:
        return self.seen

    def _sketch(self, piece: Array) -> None:
        """Keep nothing beside `low` and `high`."""

    def _merge(self, other: Self) -> None:
        """Keep nothing beside `low` and `high`."""


class Histogram(Observer):
    """Counts in bins whose width is a power of two, `2 ** exponent`.

    Bin `i` counts the numbers `x` with `i <= x / 2**exponent < i + 1`. The exponent is the
    smallest for which zero and all numbers seen lie in at most `BINS` bins, so it follows from the
    smallest and the largest number alone. When they move apart, the width doubles and neighbouring
    bins `2i` and `2i + 1` become bin `i`, exactly. Hence the sketch of a union does not depend on
    order or partition. Between `BINS / 2` and `BINS` bins are in use.

    Attributes:
        exponent: Binary logarithm of the width of a bin; None before the first number but zero.
        first: Number of the first bin, at most 0.
        counts: Occurrences by bin, from `first` on.
        zeros: How many numbers were exactly zero; they are counted in bin 0 too.
    """

    BINS = 8192

    def __init__(self) -> None:
        super().__init__()
        self.exponent: int | None = None
        self.first = 0
        self.counts: Counts = np.zeros(1, np.int64)
        self.zeros = 0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    def _sketch(self, piece: Array) -> None:
        self.zeros += int(np.count_nonzero(piece == 0))
        self._cover()
        if self.exponent is None:
            self.counts[0] += piece.size
            return
        # Scaling by a power of two is exact but for underflow: a tiny negative number must not
        # land in bin 0.
        bins = np.floor(np.ldexp(piece, -self.exponent)).astype(np.int64)
        if self.first < 0:
            bins[(bins == 0) & (piece < 0)] = -1
        bins -= self.first
        self.counts += np.bincount(bins, minlength=self.counts.size)

    def _merge(self, other: Self) -> None:
        self.zeros += other.zeros
        self._cover()
        if other.exponent is None or self.exponent is None:
            self.counts[-self.first] += other.counts[-other.first]
            return
        first, counts = _coarsened(other.first, other.counts, self.exponent - other.exponent)
        start = first - self.first
        self.counts[start : start + counts.size] += counts

    def _cover(self) -> None:
        """Widen bins and append new ones until zero, `low` and `high` lie in some bin."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if low == high == 0.0:
            return
        exponent = _exponent(low, high, self.BINS)
        shift = 0 if self.exponent is None else exponent - self.exponent
        first, counts = _coarsened(self.first, self.counts, shift)
        self.exponent = exponent
        self.first, last = _bin(low, exponent), _bin(high, exponent)
        self.counts = np.zeros(last - self.first + 1, np.int64)
        start = first - self.first
        self.counts[start : start + counts.size] = counts


class Percentile(Histogram):
    """The range between two quantiles, which cuts off rare outliers.

    Of the numbers seen, `percent` % lie inside; half of the rest lies below and half above. The
    numbers of a bin are taken as spread evenly over it, which is off by less than a bin: at most
    1/4096 of `seen`.

    Args:
        percent: Between 50 and 100.
    """

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        if not 50 <= percent <= 100:
            raise ValueError(f"percent must be between 50 and 100, got {percent}")
        self.percent = percent

    def range(self) -> Range:
        tail = (1.0 - self.percent / 100.0) / 2.0
        if self.exponent is None or tail == 0.0:
            return self.seen
        return Range(self.quantile(tail), self.quantile(1.0 - tail))

    def quantile(self, share: float) -> float:
        """The number that `share` of all numbers seen lie below."""
        total = np.cumsum(self.counts)
        wanted = share * float(total[-1])
        index = int(np.searchsorted(total, wanted, side="left"))
        count = float(self.counts[index])
        before = float(total[index]) - count
        inside = (wanted - before) / count if count else 0.0
        value = (self.first + index + inside) * self.width
        return min(max(value, self.low), self.high)


class Entropy(Histogram):
    """The range whose quantized distribution is nearest to the original in Kullback-Leibler terms.

    For a threshold t, numbers outside [-t, t] saturate and those inside are rounded to `levels`
    values. With P the clipped distribution over bins and Q the rounded one, spread back over the
    occupied bins, the threshold with the least sum P log(P / Q) is taken (S. Migacz, "8-bit
    Inference with TensorRT", GTC 2017). Exact zeros are left out: zero is represented exactly
    whatever the range, and after a Relu they would outweigh everything else.
    """

    LEVELS = 256
    CANDIDATES = 128

    def range(self) -> Range:
        if self.exponent is None:
            return self.seen
        counts = self.counts.astype(np.float64)
        zero = -self.first
        counts[zero] -= self.zeros
        longest = max(zero, counts.size - zero)
        both_sides = 0 < zero < counts.size - 1
        shortest = self.LEVELS // 2 if both_sides else self.LEVELS
        if longest <= shortest or not counts.any():
            return self.seen
        spans = np.unique(np.linspace(shortest, longest, self.CANDIDATES).astype(np.int64))
        losses = [
            _divergence(counts, max(0, zero - span), min(counts.size, zero + span), self.LEVELS)
            for span in map(int, spans)
        ]
        reach = int(spans[int(np.argmin(losses))]) * self.width
        return Range(max(self.low, -reach), min(self.high, reach))


def observer(method: str, *, percentile: float = 99.99) -> Callable[[], Observer]:
    """Return what makes observers of a method: "minmax", "percentile" or "entropy"."""
    makers: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax,
        "percentile": lambda: Percentile(percentile),
        "entropy": Entropy,
    }
    return makers[method]


def _bin(number: float, exponent: int) -> int:
    return math.floor(math.ldexp(number, -exponent))


def _exponent(low: float, high: float, bins: int) -> int:
    """Return the smallest exponent at which `[low, high]` meets at most `bins` bins."""
    # n bins cover less than n widths, so one below log2((high - low) / bins) is always too small.
    exponent = math.frexp((high - low) / bins)[1] - 2
    while _bin(high, exponent) - _bin(low, exponent) + 1 > bins:
        exponent += 1
    return exponent


def _coarsened(first: int, counts: Counts, shift: int) -> tuple[int, Counts]:
    """Return first bin and counts after the width has been doubled `shift` times."""
    if shift == 0:
        return first, counts
    # Once everything is in bins -1 and 0, further doublings change nothing.
    shift = min(shift, max(-first, first + counts.size, 1).bit_length())
    coarse = first >> shift
    front = first - (coarse << shift)
    back = -(front + counts.size) % (1 << shift)
    padded = np.pad(counts, (front, back))
    return coarse, padded.reshape(-1, 1 << shift).sum(axis=1)


def _divergence(counts: NDArray[np.float64], start: int, stop: int, levels: int) -> float:
    """Return KL(P || Q) of clipping to the bins [start, stop) and rounding to `levels` values."""
    inside = counts[start:stop]
    occupied = inside > 0
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    level = np.arange(inside.size) * levels // inside.size
    mass = np.bincount(level, inside, minlength=levels)
    share = np.bincount(level, occupied, minlength=levels)
    q = np.where(occupied, (mass / np.maximum(share, 1))[level], 0.0)
    if not q.any():
        return math.inf
    # Saturated mass may fall on a bin that was empty; a small share there keeps the sum finite.
    p, q = _smoothed(p), _smoothed(q)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(mass: NDArray[np.float64], share: float = 1e-4) -> NDArray[np.float64]:
    """Return a distribution without zeros: mixed with a little of the uniform one."""
    smooth: NDArray[np.float64] = (1.0 - share) * mass / mass.sum() + share / mass.size
    return smooth
