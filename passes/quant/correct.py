# SPDX-License-Identifier: Apache-2.0
"""Bias correction: rounded weights shift the mean of what they compute; the bias takes it back.

With weights W rounded to W + E, an output is off by E x. Its mean, E mean(x), is the same for every
input and is often most of the error, since a channel's activations (behind a Relu or Gelu) are far
from zero on average. It is known before anything runs: see M. Nagel et al., "Data-Free Quantization
through Weight Equalization and Bias Correction", 2019, section 4.2.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]


class ChannelMean:
    """Watches the mean of each channel of a value, over samples and positions.

    Sums are held in float64: merging halves equals the whole to about 15 digits.

    Args:
        axis: Axis of the channels.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.count = 0
        self.total: NDArray[np.float64] = np.zeros(0)

    def update(self, array: Array) -> None:
        """Observe an array, always with the same number of channels."""
        others = tuple(i for i in range(array.ndim) if i != self.axis)
        self._add(array.sum(axis=others, dtype=np.float64), array.size // array.shape[self.axis])

    def merge(self, other: Self) -> None:
        """Take over what another observer saw."""
        if other.count:
            self._add(other.total, other.count)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel; empty if nothing was seen."""
        return self.total / max(self.count, 1)

    def _add(self, total: NDArray[np.float64], count: int) -> None:
        self.total = total if self.count == 0 else self.total + total
        self.count += count


def mean_shift(
    error: Array, mean: NDArray[np.float64], *, axis: int = 0, groups: int = 1
) -> NDArray[np.float64]:
    """Return the mean of `error` applied to inputs, for each output channel.

    Padding is not accounted for: at the border fewer products count.

    Args:
        error: Rounded minus original weights: [outputs, inputs / groups, ...], or a matrix.
        mean: Mean of each input channel.
        axis: Axis of the outputs: 1 for a matrix [inputs, outputs].
        groups: Number of groups of a Conv.
    """
    outputs = error.shape[axis]
    by_output = np.moveaxis(error, axis, 0).astype(np.float64)
    summed = by_output.reshape(groups, outputs // groups, mean.size // groups, -1).sum(axis=-1)
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", summed, mean.reshape(groups, -1))
    return shift.reshape(-1)
