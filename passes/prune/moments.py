# SPDX-License-Identifier: Apache-2.0
"""Moments of what layers are fed, of columns drawn where there are more than needed.

Columns are kept until there are enough of them for one product of matrices: adding up the products
of single samples would take longer than making them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from burnish.passes.reconstruct.gram import Rows
from burnish.passes.reconstruct.observe import Moments, is_held_out
from burnish.passes.sketch import Array

ROWS = 64
"""Columns kept of all samples together, for each number in one."""

_BATCH = 4096


class Columns:
    """Cuts inputs into columns [G, n, K + 1], with a one behind each, and draws from them.

    Args:
        cut: Cuts an input into columns.
        features: K.
        samples: How many inputs there will be.
        seed: Of the draw.
    """

    def __init__(self, cut: Rows, features: int, samples: int, seed: int) -> None:
        self.cut = cut
        self.most = max(16, -(-ROWS * features // max(samples, 1)))
        self.rng = np.random.default_rng(seed)

    def of(self, array: Array) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return columns of one input, and which they are."""
        x = np.concatenate(list(self.cut(array)), axis=1)
        chosen: NDArray[np.intp] = np.arange(x.shape[1])
        if x.shape[1] > self.most:
            chosen = np.sort(self.rng.choice(x.shape[1], self.most, replace=False))
            x = x[:, chosen]
        ones = np.ones((*x.shape[:2], 1))
        return np.concatenate([x, ones], axis=2, dtype=np.float64), chosen


class Batch:
    """Keeps arrays [G, n, ...] that belong together until there are many n, then passes them on."""

    def __init__(self, then: Callable[..., None]) -> None:
        self._then = then
        self._kept: list[tuple[NDArray[np.float64], ...]] = []
        self._count = 0

    def add(self, *arrays: NDArray[np.float64]) -> None:
        """Keep some more."""
        self._kept.append(arrays)
        self._count += arrays[0].shape[1]
        if self._count >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Pass on what is kept."""
        if self._kept:
            self._then(*(np.concatenate(each, axis=1) for each in zip(*self._kept, strict=True)))
        self._kept, self._count = [], 0


class Second:
    """Watches an input of layers: first and second moments of all samples but those held out.

    Args:
        columns: Cuts and draws.
        groups: G.
        features: K.
        all_samples: Whether none is held out, there being too few.
    """

    def __init__(
        self, columns: Columns, groups: int, features: int, *, all_samples: bool = False
    ) -> None:
        self._columns = columns
        self._sum = np.zeros((groups, features + 1, features + 1))
        self._batch = Batch(self._add)
        self._all = all_samples
        self._index = 0
        self._count = 0

    def update(self, array: Array) -> None:
        """Observe the input on the next sample."""
        self._index += 1
        if self._all or not is_held_out(self._index - 1):
            self._batch.add(self._columns.of(array)[0])

    def _add(self, x: NDArray[np.float64]) -> None:
        self._sum += x.transpose(0, 2, 1) @ x
        self._count += x.shape[1]

    @property
    def moments(self) -> Moments:
        """What was seen."""
        self._batch.flush()
        return Moments(self._sum[:, :-1, :-1], self._sum[:, :-1, -1], self._count)
