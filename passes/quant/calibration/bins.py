# SPDX-License-Identifier: Apache-2.0
"""Bins whose width is a power of two, so that joining two neighbours is exact.

Bin `i` of width `2**exponent` holds the numbers `x` with `i <= x / 2**exponent < i + 1`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from burnish.passes.sketch import Array

Counts = NDArray[np.int64]
"""Occurrences by bin; which bin is the first is said beside it."""


def scaled(piece: Array, exponent: int) -> Array:
    """Return `piece * 2**exponent`, in its own type."""
    if -100 < exponent < 100:  # much faster, where the factor is a normal number
        product: Array = piece * piece.dtype.type(math.ldexp(1.0, exponent))
        return product
    return np.ldexp(piece, exponent)


def bin_of(number: float, exponent: int) -> int:
    """Return the bin of a number."""
    return math.floor(math.ldexp(number, -exponent))


def smallest_exponent(low: float, high: float, bins: int) -> int:
    """Return the smallest exponent at which `[low, high]` meets at most `bins` bins."""
    # n bins cover less than n widths, so one below log2((high - low) / bins) is always too small.
    exponent = math.frexp((high - low) / bins)[1] - 2
    while bin_of(high, exponent) - bin_of(low, exponent) + 1 > bins:
        exponent += 1
    return exponent


def coarsened(first: int, counts: Counts, shift: int) -> tuple[int, Counts]:
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


def folded(first: int, counts: Counts) -> Counts:
    """Return counts of magnitudes: bin `-1 - i` is joined with bin `i`."""
    positive, negative = counts[-first:], counts[:-first][::-1] if first else counts[:0]
    sums = np.zeros(max(positive.size, negative.size), np.int64)
    sums[: positive.size] += positive
    sums[: negative.size] += negative
    return sums
