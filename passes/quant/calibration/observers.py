# SPDX-License-Identifier: Apache-2.0
"""Streaming observers: what range of a value is worth representing in eight bits?

An observer is fed arrays, one a sample, and keeps a sketch of them, never the arrays: its memory
does not depend on how many there were. Two sketches of the same kind merge exactly: samples
observed apart and then merged equal all observed at once, to the last bit, in whatever order.

    MinMax          everything that occurred
    MovingAverage   what a sample reaches on average
    Percentile      all but the outermost fraction of it
    Entropy         the range that loses least information (also as TensorRT, ONNX Runtime do)
    MeanSquare      the range with the least squared error
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from burnish.passes.quant.calibration.bins import (
    Counts,
    bin_of,
    coarsened,
    folded,
    scaled,
    smallest_exponent,
)
from burnish.passes.quant.calibration.losses import divergence, least_error, squared_error
from burnish.passes.sketch import Array, ExactSum, Sketch

# Arrays are sketched a piece at a time: temporary copies stay in the processor's cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Range:
    """A closed interval of real numbers, `low <= high`."""

    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    @property
    def width(self) -> float:
        """Distance of its ends."""
        return self.high - self.low

    @property
    def with_zero(self) -> Range:
        """The range widened to contain zero."""
        return Range(min(self.low, 0.0), max(self.high, 0.0))


class Observer(Sketch):
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
        """Observe the array of one sample: floating-point numbers, of any shape."""
        flat = np.asarray(array).reshape(-1)
        if flat.dtype.itemsize < 4:
            flat = flat.astype(np.float32)
        low, high = _ends(flat)
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN passes through min and max
            finite = flat[np.isfinite(flat)]
            self.nonfinite += flat.size - finite.size
            flat = finite
            low, high = _ends(flat)
        if low > high:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._sketch(flat, low, high)

    def merge(self, other: Self) -> None:
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

    def outside(self, range: Range) -> float | None:
        """Share of all numbers seen that saturate; None if the sketch cannot tell.

        They lie outside the range, which is widened to contain zero, as all schemes do.
        """
        inside = self.low in range.with_zero and self.high in range.with_zero
        return 0.0 if inside or self.low > self.high else None

    def _sketch(self, flat: Array, low: float, high: float) -> None:
        """Add the finite numbers of a sample, between `low` and `high`, to the sketch.

        The attributes `low` and `high` cover them already.
        """

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Add another sketch to this one; `low` and `high` cover both already."""


class MinMax(Observer):
    """The whole range that occurred: nothing saturates on the calibration data."""

    def range(self) -> Range:
        return self.seen

    def _merge(self, other: Self) -> None:
        """Keep nothing beside `low` and `high`."""


class MovingAverage(Observer):
    """The mean of the smallest numbers of the samples, to the mean of their largest.

        low = (1 / n) sum_i min(x_i)        high = (1 / n) sum_i max(x_i)

    This is the cumulative moving average. The exponential one, `r <- (1 - c) r + c x_i`, serves
    training, where weights change and old samples mislead (B. Jacob et al., 2018, section 3.1); in
    calibration the model stands still, and to weigh the last samples most would only make the
    result depend on their order. For `c -> 0`, without the bias towards the first sample, it
    becomes this mean, whose sums merge exactly.

    Attributes:
        sums: Of the ends of the samples: [low, high].
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = ExactSum()

    def range(self) -> Range:
        if self.sums.count == 0:
            return self.seen
        low, high = (self.sums.value / self.sums.count).tolist()
        return Range(max(low, self.low), min(high, self.high))

    def _sketch(self, flat: Array, low: float, high: float) -> None:
        self.sums.add(np.array([low, high]))

    def _merge(self, other: Self) -> None:
        self.sums.merge(other.sums)


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

    def outside(self, range: Range) -> float:
        """Share of all numbers seen that saturate; those of a bin are spread evenly over it."""
        range = range.with_zero
        total = int(self.counts.sum())
        if total == 0 or (self.low in range and self.high in range):
            return 0.0
        edges = (self.first + np.arange(self.counts.size)) * self.width
        inside = np.minimum(edges + self.width, range.high) - np.maximum(edges, range.low)
        share = np.clip(inside / self.width, 0.0, 1.0) if self.width else np.ones(1)
        counts = self.counts.astype(np.float64)
        counts[-self.first] -= self.zeros  # zeros sit on the edge of their bin
        kept = float(counts @ share) + self.zeros
        return max(0.0, 1.0 - kept / total)

    def _sketch(self, flat: Array, low: float, high: float) -> None:
        self._cover()
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            self.zeros += piece.size - int(np.count_nonzero(piece != 0))
            if self.exponent is None:
                self.counts[0] += piece.size
                continue
            bins = scaled(piece, -self.exponent)
            np.floor(bins, out=bins)
            if self.exponent > 0 and self.first < 0:
                # Scaling by a power of two is exact but for underflow: a tiny negative number
                # must not land in bin 0.
                bins[(bins == 0) & (piece < 0)] = -1
            bins -= bins.dtype.type(self.first)
            self.counts += np.bincount(bins.astype(np.intp), minlength=self.counts.size)

    def _merge(self, other: Self) -> None:
        self.zeros += other.zeros
        self._cover()
        if other.exponent is None or self.exponent is None:
            self.counts[-self.first] += other.counts[-other.first]
            return
        first, counts = coarsened(other.first, other.counts, self.exponent - other.exponent)
        start = first - self.first
        self.counts[start : start + counts.size] += counts

    def _cover(self) -> None:
        """Widen bins and append new ones until zero, `low` and `high` lie in some bin."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if low == high == 0.0:
            return
        if self.exponent is not None and self._covered(low, high):
            return
        exponent = smallest_exponent(low, high, self.BINS)
        shift = 0 if self.exponent is None else exponent - self.exponent
        first, counts = coarsened(self.first, self.counts, shift)
        self.exponent = exponent
        self.first, last = bin_of(low, exponent), bin_of(high, exponent)
        self.counts = np.zeros(last - self.first + 1, np.int64)
        start = first - self.first
        self.counts[start : start + counts.size] = counts

    def _covered(self, low: float, high: float) -> bool:
        """Whether the bins are already those for `low` to `high`."""
        assert self.exponent is not None
        last = self.first + self.counts.size - 1
        return bin_of(low, self.exponent) == self.first and bin_of(high, self.exponent) == last


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
    occupied bins, the threshold with the least

        KL(P || Q) = sum_i P_i log(P_i / Q_i)

    is taken (S. Migacz, "8-bit Inference with TensorRT", GTC 2017).

    Args:
        levels: Number of quantized values, on both sides of zero if numbers lie on both.
        bins: At most so many bins are compared (at least half of it); more are joined.
        candidates: How many thresholds to try; None tries one a bin.
        magnitudes: Look at absolute values, and take a range symmetric about zero.
        zeros: Count exact zeros. They are represented exactly whatever the range, and after a Relu
            would outweigh everything else.
    """

    def __init__(
        self,
        *,
        levels: int = 256,
        bins: int = Histogram.BINS,
        candidates: int | None = 128,
        magnitudes: bool = False,
        zeros: bool = False,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.bins = bins
        self.candidates = candidates
        self.magnitudes = magnitudes
        self.count_zeros = zeros

    @staticmethod
    def tensorrt() -> Entropy:
        """As TensorRT's calibration does: 2048 bins of magnitudes, 128 levels, every threshold."""
        return Entropy(levels=128, bins=2048, candidates=None, magnitudes=True)

    @staticmethod
    def onnxruntime() -> Entropy:
        """As ONNX Runtime's does: 128 levels over both signs, zeros counted, every threshold.

        Its 128 bins are those of the first sample and grow with later ones, so that its result
        depends on their order, and is the whole range for a single sample; here there are 2048.
        """
        return Entropy(levels=128, bins=2048, candidates=None, zeros=True)

    def range(self) -> Range:
        if self.exponent is None:
            return self.seen
        counts, zero, width = self.joined()
        longest = max(zero, counts.size - zero)
        both_sides = 0 < zero < counts.size - 1
        shortest = self.levels // 2 if both_sides else self.levels
        if longest <= shortest or not counts.any():
            return self.seen
        tried = self.candidates or longest - shortest + 1
        spans = np.unique(np.linspace(shortest, longest, tried).astype(np.int64))
        losses = [
            divergence(counts, max(0, zero - span), min(counts.size, zero + span), self.levels)
            for span in map(int, spans)
        ]
        reach = int(spans[int(np.argmin(losses))]) * width
        return Range(max(self.low, -reach), min(self.high, reach))

    def joined(self) -> tuple[NDArray[np.float64], int, float]:
        """Return what is compared: counts by bin, which bin zero begins, and the width of a bin."""
        assert self.exponent is not None
        counts = self.counts.copy()
        if not self.count_zeros:
            counts[-self.first] -= self.zeros
        first = self.first
        if self.magnitudes:
            first, counts = 0, folded(first, counts)
        shift = 0
        while (counts.size - 1 >> shift) + 1 > self.bins:
            shift += 1
        first, counts = coarsened(first, counts, shift)
        return counts.astype(np.float64), -first, math.ldexp(1.0, self.exponent + shift)


class MeanSquare(Histogram):
    """The range whose quantized values have the least mean square error.

        (low, high) = argmin  sum_i counts_i (x_i - Q(x_i; low, high))^2

    with x_i the middle of a bin and Q rounding to `levels` evenly spaced values (M. Nagel et al.,
    "A White Paper on Neural Network Quantization", 2021, section 3.1). Both ends are searched in
    turns over hundredths of `seen`, until neither moves. More than 2048 levels are finer than the
    bins: then it is `seen`.

    Args:
        levels: Number of quantized values.
        symmetric: Take a range symmetric about zero, cut to `seen`.
    """

    STEPS = 100

    def __init__(self, *, levels: int = 256, symmetric: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.symmetric = symmetric

    def range(self) -> Range:
        if self.exponent is None or 4 * self.levels > self.BINS:
            return self.seen
        counts = self.counts.astype(np.float64)
        counts[-self.first] -= self.zeros  # exact whatever the range
        occupied = np.flatnonzero(counts)
        if occupied.size == 0:
            return self.seen
        counts = counts[occupied]
        numbers = np.ldexp(self.first + occupied + 0.5, self.exponent).astype(np.float64)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        shares = np.arange(1, self.STEPS + 1) / self.STEPS
        if self.symmetric:
            reach = max(-low, high)
            errors = [
                squared_error(numbers, counts, -s * reach, s * reach, self.levels) for s in shares
            ]
            reach *= float(shares[int(np.argmin(errors))])
            return Range(max(self.low, -reach), min(self.high, reach))
        best = (low, high)
        for _ in range(4):
            before = best
            lows = [low] if low == 0.0 else (shares * low).tolist()
            best = (
                least_error(numbers, counts, [(x, best[1]) for x in lows], self.levels)[0],
                best[1],
            )
            highs = [high] if high == 0.0 else (shares * high).tolist()
            best = (
                best[0],
                least_error(numbers, counts, [(best[0], x) for x in highs], self.levels)[1],
            )
            if best == before:
                break
        return Range(max(self.low, best[0]), min(self.high, best[1]))


METHODS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquare,
}
"""Observers by the name of the method; `Percentile` takes an argument."""


def observer(
    method: str, *, percentile: float = 99.99, levels: int = 256, symmetric: bool = False
) -> Callable[[], Observer]:
    """Return what makes observers of one of `METHODS`.

    Args:
        method: Its name.
        percentile: Percentage of numbers inside the range (`percentile`).
        levels: Number of quantized values (`entropy`, `mse`).
        symmetric: Zero lies in the middle of them (`mse`).
    """
    made: dict[str, Callable[[], Observer]] = {
        "percentile": lambda: Percentile(percentile),
        "entropy": lambda: Entropy(levels=levels),
        "mse": lambda: MeanSquare(levels=levels, symmetric=symmetric),
    }
    return made.get(method) or METHODS[method]


def _ends(flat: Array) -> tuple[float, float]:
    return (float(flat.min()), float(flat.max())) if flat.size else (math.inf, -math.inf)
