# SPDX-License-Identifier: Apache-2.0
"""Bias correction: rounded weights shift the mean of what they compute; the bias takes it back.

With weights W rounded to W + E, an output is off by E x. Its mean, E mean(x), is the same for every
input and is often most of the error, since a channel's activations (behind a Relu or Gelu) are far
from zero on average. It is known before anything runs: see M. Nagel et al., "Data-Free Quantization
through Weight Equalization and Bias Correction", 2019, section 4.2.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from burnish.passes.sketch import Array, ExactSum, Sketch


class ChannelMean(Sketch):
    """Watches the mean of each channel of a value, over samples and positions.

    The sums of samples are added exactly: merging halves gives the whole to the last bit.

    Args:
        axis: Axis of the channels.

    Attributes:
        count: Numbers seen in each channel.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.count = 0
        self.sums = ExactSum()

    def update(self, array: Array) -> None:
        """Observe the array of one sample, always with the same number of channels.

        A channel that holds NaN or infinity counts as zero in that sample.

        Raises:
            ValueError: it has another number of channels.
        """
        others = tuple(i for i in range(array.ndim) if i != self.axis)
        total = array.sum(axis=others, dtype=np.float64)
        self.sums.add(np.nan_to_num(total, nan=0.0, posinf=0.0, neginf=0.0))
        self.count += array.size // array.shape[self.axis]

    def merge(self, other: Self) -> None:
        self.sums.merge(other.sums)
        self.count += other.count

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel; empty if nothing was seen."""
        return self.sums.value / max(self.count, 1)


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
