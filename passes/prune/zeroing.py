# SPDX-License-Identifier: Apache-2.0
"""Decisions which elements of a weight become zero, carried out when the weight is read."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.prune.axes import Axes
from burnish.passes.prune.pattern import Pattern
from burnish.passes.sketch import Array


class Zeroing(ABC):
    """Zeroes some elements of a weight; the others stay as they are, bit by bit."""

    @abstractmethod
    def array(self, tensor: ir.TensorProtocol) -> Array:
        """Return the elements of a tensor with some zeroed, as a new array."""

    def zeros(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Count the zeros of a tensor before and after."""
        array = tensor.numpy()
        return count_zeros(array), count_zeros(self.array(tensor))

    def tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """Return the tensor with some elements zeroed, computed each time it is read.

        So pruning takes no memory: the weights stay in the file they came from.
        """
        return ir.LazyTensor(
            lambda: ir.tensor(self.array(tensor), dtype=tensor.dtype),
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )


@dataclass(frozen=True)
class Drop(Zeroing):
    """Zeroes what a pattern drops, of least magnitude or at random.

    Attributes:
        axes: Of the weight.
        pattern: What goes together.
        ratio: As the pattern takes it.
        seed: Of random scores; None for magnitudes. Blocks go by the sum of their squares.
    """

    axes: Axes
    pattern: Pattern
    ratio: float
    seed: tuple[int, int] | None = None

    def array(self, tensor: ir.TensorProtocol) -> Array:
        """See `Zeroing`."""
        array = np.array(tensor.numpy(), order="C")
        matrix = self.axes.matrix(array)
        matrix[self.pattern.drop(self._scores(matrix), self.ratio)] = 0
        return array

    def _scores(self, matrix: Array) -> Array:
        if self.seed is None:
            return np.square(matrix.astype(np.float64))
        scores = np.random.default_rng(self.seed).random(matrix.shape)
        return np.where(matrix == 0, 0.0, scores)  # what is zero already counts


def seed_of(seed: int, name: str) -> tuple[int, int]:
    """Return a seed for one weight, whatever other weights there are."""
    return seed, zlib.crc32(name.encode())


def count_zeros(array: Array) -> int:
    """Return how many elements are zero."""
    return int(array.size) - int(np.count_nonzero(array))
