# SPDX-License-Identifier: Apache-2.0
"""Magnitudes as integers, and cutting off the smallest of them.

The bits of an IEEE 754 number without its sign, read as an integer, order as its magnitude does:
so magnitudes are compared, counted and selected exactly, ties included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.prune.select import Keys
from burnish.passes.prune.zeroing import Zeroing
from burnish.passes.sketch import Array

# Elements handled at a time: temporary memory is a few times this, whatever the size of a weight.
CHUNK = 1 << 18


def magnitude_keys(array: Array, bits: int) -> Keys:
    """Return |x| of floating-point numbers as unsigned integers of 32 or 64 bits that order alike.

    float16 and bfloat16 are widened, which is exact; float64 needs 64 bits.
    """
    if bits == 64:
        wide: Keys = array.astype(np.float64).view(np.uint64)
        return wide & np.uint64(0x7FFF_FFFF_FFFF_FFFF)
    narrow: Keys = array.astype(np.float32).view(np.uint32)
    return narrow & np.uint32(0x7FFF_FFFF)


def pieces(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """Yield the elements of a tensor in row-major order, `CHUNK` at a time, without copying."""
    flat = tensor.numpy().reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK]


def has_nan(tensor: ir.TensorProtocol) -> bool:
    """Whether any element is not a number."""
    return any(bool(np.isnan(piece).any()) for piece in pieces(tensor))


@dataclass(frozen=True)
class Cut(Zeroing):
    """Zeroes the elements below a magnitude, and the first so many of those equal to it.

    Attributes:
        key: Magnitude, as `magnitude_keys` gives it.
        ties: Number of elements of exactly that magnitude to zero, in row-major order.
        bits: Width of the keys.
    """

    key: int
    ties: int
    bits: int

    def zeros(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Count the zeros of a tensor before and after the cut."""
        before = after = equal = 0
        for piece in pieces(tensor):
            keys = magnitude_keys(piece, self.bits)
            before += int(np.count_nonzero(keys == 0))
            after += int(np.count_nonzero((keys < self.key) | (keys == 0)))
            equal += int(np.count_nonzero(keys == self.key))
        return before, after + (min(equal, self.ties) if self.key else 0)

    def equal(self, tensor: ir.TensorProtocol) -> int:
        """Count the elements of exactly the magnitude of the cut."""
        return sum(
            int(np.count_nonzero(magnitude_keys(piece, self.bits) == self.key))
            for piece in pieces(tensor)
        )

    def array(self, tensor: ir.TensorProtocol) -> Array:
        """Return the elements of a tensor with the cut applied, as a new array."""
        cut = np.array(tensor.numpy(), order="C")
        flat, ties = cut.reshape(-1), self.ties
        for start in range(0, flat.size, CHUNK):
            piece = flat[start : start + CHUNK]
            keys = magnitude_keys(piece, self.bits)
            dropped = keys < self.key
            if ties:
                equal = np.flatnonzero(keys == self.key)[:ties]
                dropped[equal] = True
                ties -= equal.size
            piece[dropped] = 0
        return cut
