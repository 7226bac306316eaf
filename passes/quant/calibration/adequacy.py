# SPDX-License-Identifier: Apache-2.0
"""Are there enough calibration samples? The two halves of them say.

Samples are dealt out to two halves, one of each pair to each. Ranges found from one half should
be those found from the other, and few numbers of one half should saturate in the range of the
other, which has not seen them. Both are measured for every value while it is calibrated, at no
further run of the model.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from burnish.passes.quant.calibration.observers import Observer, Range
from burnish.passes.sketch import Array, Sketch

# Ends of a range that move by more than this share of its width cost about two decibels.
LARGE_SHIFT = 0.25
# Share of unseen numbers that saturate beyond what the method cuts off on purpose.
MUCH_SATURATION = 1e-3
# Share of the values that may be unstable: some always are, with rare outliers.
MANY_UNSTABLE = 0.05


class Halves(Sketch):
    """Two observers, each of which sees half of the samples.

    One sees those whose number has an even count of ones in binary, the other the rest (the
    Thue-Morse sequence): samples often come in turns of two or more kinds, and each half should
    get as many of each.

    Args:
        make: Makes an observer.
    """

    def __init__(self, make: Callable[[], Observer]) -> None:
        self.even = make()
        self.odd = make()
        self.count = 0

    def update(self, array: Array) -> None:
        (self.odd if self.count.bit_count() % 2 else self.even).update(array)
        self.count += 1

    def merge(self, other: Halves) -> None:
        self.even.merge(other.even)
        self.odd.merge(other.odd)
        self.count += other.count

    @property
    def whole(self) -> Observer:
        """An observer that saw all samples."""
        made = copy.deepcopy(self.even)
        made.merge(self.odd)
        return made


@dataclass(frozen=True)
class Stability:
    """How well the halves agree about one value.

    Attributes:
        shift: How far apart the ends of their ranges are, by the width of the range of all.
        saturated: Share of a half's numbers that saturate in the range of the other half, the
            worse of both, less the share of all numbers outside the range of all, which the method
            cuts off on purpose; None if the observers keep no histogram.
    """

    shift: float
    saturated: float | None

    @staticmethod
    def of(halves: Halves, whole: Observer, kept: Range) -> Stability:
        """Compare the halves; `whole` is their union, and `kept` its range."""
        even, odd = halves.even.range().with_zero, halves.odd.range().with_zero
        moved = max(abs(even.low - odd.low), abs(even.high - odd.high))
        width = kept.with_zero.width
        shares = [halves.even.outside(odd), halves.odd.outside(even)]
        known = [share for share in shares if share is not None]
        cut = whole.outside(kept)
        saturated = None if cut is None or len(known) < 2 else max(0.0, max(known) - cut)
        return Stability(moved / width if width else 0.0, saturated)

    @property
    def is_stable(self) -> bool:
        """Whether the range can be relied on for samples that were not seen."""
        return self.shift <= LARGE_SHIFT and (self.saturated or 0.0) <= MUCH_SATURATION


@dataclass(frozen=True)
class Adequacy:
    """Whether a calibration set is large enough, with the figures that say so.

    Attributes:
        samples: Number of samples.
        values: Number of values compared.
        unstable: How many of them differ between halves; see `Stability.is_stable`.
        typical_shift: Median of `Stability.shift`.
        worst_shift: Largest of it.
        worst_shift_of: Name of the value it belongs to.
        worst_saturated: Largest `Stability.saturated`; None if that is not known.
        worst_saturated_of: Name of the value it belongs to.
    """

    samples: int
    values: int
    unstable: int
    typical_shift: float
    worst_shift: float
    worst_shift_of: str
    worst_saturated: float | None
    worst_saturated_of: str

    @staticmethod
    def of(values: Mapping[str, Stability], samples: int) -> Adequacy | None:
        """Sum up; None if there are fewer than two samples, or no values."""
        if samples < 2 or not values:
            return None
        shifting = max(values, key=lambda name: values[name].shift)
        known = {n: s.saturated for n, s in values.items() if s.saturated is not None}
        saturating = max(known, key=lambda name: known[name]) if known else ""
        return Adequacy(
            samples,
            len(values),
            sum(not found.is_stable for found in values.values()),
            statistics.median(found.shift for found in values.values()),
            values[shifting].shift,
            shifting,
            known.get(saturating),
            saturating,
        )

    @property
    def is_enough(self) -> bool:
        """Whether nearly all ranges are stable."""
        return self.unstable <= MANY_UNSTABLE * self.values

    def __str__(self) -> str:
        text = (
            f"{self.samples} samples: {self.unstable} of {self.values} ranges differ between "
            f"halves (typically by {self.typical_shift:.1%} of their width, at most "
            f"{self.worst_shift:.0%}, {self.worst_shift_of!r})"
        )
        if self.worst_saturated is not None:
            text += (
                f"; of unseen samples at most {self.worst_saturated:.2%} of the numbers saturate "
                f"by mistake ({self.worst_saturated_of!r})"
            )
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**dataclasses.asdict(self), "enough": self.is_enough}
