# SPDX-License-Identifier: Apache-2.0
"""Summaries of arrays that are updated sample by sample, merged exactly, and stored.

A sketch is fed arrays and keeps a summary of bounded size, never the arrays. Sketches of the same
kind merge exactly: samples observed apart and then merged give, to the last bit, the state of one
sketch that saw them all, in whatever order. That is what makes calibration resumable, and halves
comparable with the whole.

`ExactSum` makes that true of sums, which in floating point depend on their order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]


class Storable:
    """What can be written down as arrays: numbers, arrays, None, and storables, as attributes.

    Attributes of other types are configuration: they are not stored, and must be the same on both
    sides.
    """

    def state(self) -> dict[str, Array]:
        """Return everything that was learned, by name."""
        found: dict[str, Array] = {}
        for name, value in _stored(self):
            if isinstance(value, Storable):
                found |= {f"{name}.{key}": array for key, array in value.state().items()}
            elif value is not None:
                found[name] = np.asarray(value)
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over what `state` returned; the configuration must be the same."""
        for name, value in _stored(self):
            if isinstance(value, Storable):
                prefix = f"{name}."
                value.restore(
                    {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                )
            else:
                array = state.get(name)
                setattr(self, name, array if array is None or array.ndim else array.item())


def _stored(owner: Storable) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in vars(owner).items():
        if isinstance(value, list):
            found += [(f"{name}.{index}", item) for index, item in enumerate(value)]
        elif value is None or isinstance(value, int | float | np.ndarray | Storable):
            found.append((name, value))
    return found


class Sketch(Storable, ABC):
    """A summary of the arrays that one value takes, one array a sample."""

    @abstractmethod
    def update(self, array: Array) -> None:
        """Observe an array."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take over what another sketch of the same kind and configuration saw."""


class ExactSum(Storable):
    """A sum of float64 arrays that does not depend on order or grouping, to the last bit.

    Each number is cut into multiples of `2 ** (36 i)`, for the index `i` of the largest number of
    all and the one below, and both parts are added up as int64, exactly. Where to cut is absolute,
    so a number's parts do not depend on what it is added to; when a larger number raises the
    index, the lower part is dropped and the upper one becomes the lower. (J. Demmel and H. D.
    Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers 64(7), 2015, with
    integers in place of floating-point bins.)

    What is dropped of one number is at most `2 ** -37` of the largest number of the array, and
    `2 ** -72` at best. Up to `2 ** 27` arrays can be added.

    Attributes:
        top: Index of the upper part; None before the first number but zero.
        high: Sum of the upper parts, in units of `2 ** (36 top)`; int64.
        low: Sum of the lower parts, in units of `2 ** (36 (top - 1))`; int64.
        count: How many arrays were added.
    """

    WIDTH = 36
    _LEAST = -24  # numbers below 2**-900 are taken as zero

    def __init__(self) -> None:
        self.top: int | None = None
        self.high: NDArray[np.int64] = np.zeros(0, np.int64)
        self.low: NDArray[np.int64] = np.zeros(0, np.int64)
        self.count = 0

    def add(self, array: Array) -> None:
        """Add an array, always of the same shape, at least one axis.

        Raises:
            ValueError: it has another shape, or holds NaN or infinity.
            OverflowError: too many arrays were added.
        """
        self._take_shape(array.shape)
        self._counted(1)
        peak = float(max(array.max(initial=0.0), -array.min(initial=0.0)))
        if not math.isfinite(peak):
            raise ValueError("cannot add numbers that are not finite")
        if peak == 0.0:
            return
        # The least index at which no upper part exceeds 2**35 units.
        top = max(-((self.WIDTH - 1 - _exponent(peak)) // self.WIDTH), self._LEAST)
        self._raise(top)
        assert self.top is not None
        unit = self.top * self.WIDTH
        scaled = np.asarray(array, np.float64) * math.ldexp(1.0, -unit)
        whole = np.rint(scaled)
        self.high += whole.astype(np.int64)
        scaled -= whole
        scaled *= math.ldexp(1.0, self.WIDTH)
        self.low += np.rint(scaled, out=scaled).astype(np.int64)

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        if other.count == 0:
            return
        self._take_shape(other.high.shape)
        self._counted(other.count)
        if other.top is None:
            return
        self._raise(other.top)
        assert self.top is not None
        if self.top == other.top:
            self.high += other.high
            self.low += other.low
        elif self.top == other.top + 1:
            self.low += other.high

    @property
    def value(self) -> NDArray[np.float64]:
        """The sum; empty if nothing was added."""
        unit = 0 if self.top is None else self.top * self.WIDTH
        high = np.ldexp(self.high.astype(np.float64), unit)
        total: NDArray[np.float64] = high + np.ldexp(self.low.astype(np.float64), unit - self.WIDTH)
        return total

    def _take_shape(self, shape: tuple[int, ...]) -> None:
        if self.count == 0:
            self.high = np.zeros(shape, np.int64)
            self.low = np.zeros(shape, np.int64)
        elif self.high.shape != shape:
            raise ValueError(f"cannot add shape {list(shape)} to shape {list(self.high.shape)}")

    def _counted(self, more: int) -> None:
        if self.count + more > 1 << (63 - self.WIDTH):
            raise OverflowError(f"an exact sum holds at most {1 << (63 - self.WIDTH)} arrays")
        self.count += more

    def _raise(self, top: int) -> None:
        """Let the upper part have index `top` at least."""
        if self.top is None or top <= self.top:
            self.top = top if self.top is None else self.top
            return
        self.low = self.high if top == self.top + 1 else np.zeros_like(self.low)
        self.high = np.zeros_like(self.low)
        self.top = top


def _exponent(peak: float) -> int:
    """Return the least n with `peak <= 2**n`."""
    mantissa, exponent = math.frexp(peak)
    return exponent - 1 if mantissa == 0.5 else exponent
