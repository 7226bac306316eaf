# SPDX-License-Identifier: Apache-2.0
"""What is lost when the numbers of a histogram are rounded to the few of a range.

Numbers are those of the occupied bins, counts how often each occurs; levels is how many values
there are to round to.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def least_error(
    numbers: Floats, counts: Floats, ends: list[tuple[float, float]], levels: int
) -> tuple[float, float]:
    """Return the range among `ends` with the least squared error."""
    errors = [squared_error(numbers, counts, low, high, levels) for low, high in ends]
    return ends[int(np.argmin(errors))]


def squared_error(numbers: Floats, counts: Floats, low: float, high: float, levels: int) -> float:
    """Return the sum of squared errors of numbers rounded to `levels` values, one of them zero."""
    scale = (high - low) / (levels - 1)
    lowest = round(low / scale)
    rounded = np.clip(np.rint(numbers / scale), lowest, lowest + levels - 1) * scale
    return float(counts @ (numbers - rounded) ** 2)


def divergence(counts: Floats, start: int, stop: int, levels: int) -> float:
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


def _smoothed(mass: Floats, share: float = 1e-4) -> Floats:
    """Return a distribution without zeros: mixed with a little of the uniform one."""
    smooth: Floats = (1.0 - share) * mass / mass.sum() + share / mass.size
    return smooth
