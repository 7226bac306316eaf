# SPDX-License-Identifier: Apache-2.0
"""The exact k-th smallest of more numbers than fit in memory, by radix selection.

Each round reads the keys once and counts one 16-bit digit of those that can still be the answer:
two rounds for 32-bit keys, four for 64-bit ones, in 512 KiB. Nothing is sampled, and the order in
which the keys come does not matter. (D. E. Knuth, The Art of Computer Programming, vol. 3, 5.2.5.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Keys = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
_DIGIT = 16


@dataclass(frozen=True)
class Selected:
    """The k-th smallest key, and where it stands.

    Attributes:
        key: The key.
        below: Number of keys smaller than it.
        equal: Number of keys equal to it.
    """

    key: int
    below: int
    equal: int


def kth_smallest(keys: Callable[[], Iterable[Keys]], k: int, bits: int) -> Selected:
    """Return the k-th smallest key.

    Args:
        keys: Gives all keys, in pieces; called `bits / 16` times.
        k: Which one, from 1 to the number of keys.
        bits: Width of the keys, 32 or 64.
    """
    prefix = below = equal = 0
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for piece in keys():
            if shift + _DIGIT < bits:
                piece = piece[(piece >> (shift + _DIGIT)) == prefix]
            digits = (piece >> shift) & ((1 << _DIGIT) - 1)
            counts += np.bincount(digits.astype(np.intp), minlength=1 << _DIGIT)
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, k - below))
        equal = int(counts[digit])
        below += int(upto[digit]) - equal
        prefix = prefix << _DIGIT | digit
    return Selected(prefix, below, equal)
