# SPDX-License-Identifier: Apache-2.0
"""Weights as small integers by blocks: numbers that lie side by side share a scale.

    q = clip(round_half_even(w / scale) + zero_point, 0, 2**bits - 1)
    w ~ scale * (q - zero_point)

Arrays here are rows of weights, `[rows, columns]`: a row is what one output channel sums over, or
one row of an embedding table. Blocks run along a row; the last one may be shorter.

The scale of a block is searched for, without any data, to bring the squared error of its weights
down (`search="mse"`). Ranges from a little wider than the block's own down to 0.6 of it are tried,
since a few clipped numbers can cost less than coarse steps for all; then, with the integers held,
the scale becomes the one of least squares, `<w, d> / <d, d>` with `d = q - zero_point`, a few times
in turn. Clipping by the squared error is R. Banner et al., "Post training 4-bit quantization"
(2019); alternating with least squares is Lloyd's method held to equal steps, as in E. Choukroun et
al., "Low-bit Quantization of Neural Networks for Efficient Inference" (2019). Neither can make a
block worse than its own range does. On weights of a transformer it takes away 10% of the squared
error of asymmetric int4, and 25% of symmetric int4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]

SEARCHES = ("range", "mse")
"""How scales are found: from the range of a block, or by the squared error."""

# Rows are worked on a few at a time, so that temporary copies stay small.
_PIECE = 1 << 20
_WIDEST, _NARROWEST, _STEPS = 1.05, 0.6, 16
_ALTERNATIONS = 3
# Reciprocals stay normal float32 numbers.
_LEAST_SCALE = np.float32(2.0**-100)


@dataclass(frozen=True)
class BlockScheme:
    """Scales and zero points of rows of weights.

    Attributes:
        bits: Width of the integers, 2 to 8.
        block: Numbers that share a scale.
        columns: Numbers in a row.
        scale: float32 `[rows, blocks]`, positive.
        zero_point: uint8 `[rows, blocks]`; None where it is `2**(bits - 1)` throughout (symmetric).
        squared_error: Sum over all weights, of what was fitted.
        squared_sum: Sum of the squares of the weights.
    """

    bits: int
    block: int
    columns: int
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None
    squared_error: float = 0.0
    squared_sum: float = 0.0

    @property
    def error(self) -> float:
        """Relative RMS error of the weights fitted."""
        return float(np.sqrt(self.squared_error / self.squared_sum)) if self.squared_sum else 0.0

    def quantize(self, rows: Array) -> NDArray[np.uint8]:
        """Round `[rows, columns]` to integers from 0 to `2**bits - 1`, a few rows at a time."""
        result = np.empty(rows.shape, np.uint8)
        for part in pieces(rows):
            scale, zero = self._along(part)
            q = np.rint(rows[part].astype(np.float32) / scale) + zero
            result[part] = np.clip(q, 0, 2**self.bits - 1)
        return result

    def dequantize(self, integers: Array) -> NDArray[np.float32]:
        """Return the numbers that `[rows, columns]` integers stand for."""
        result = np.empty(integers.shape, np.float32)
        for part in pieces(integers):
            scale, zero = self._along(part)
            result[part] = (integers[part].astype(np.float32) - zero) * scale
        return result

    def _along(self, part: slice) -> tuple[Array, Array]:
        """Scale and zero point of each number of some rows."""
        scale = np.repeat(self.scale[part], self.block, axis=1)[:, : self.columns]
        if self.zero_point is None:
            return scale, np.array(2.0 ** (self.bits - 1), np.float32)
        zero = np.repeat(self.zero_point[part], self.block, axis=1)[:, : self.columns]
        return scale, zero.astype(np.float32)


def fit_blocks(
    rows: Array, bits: int, block: int = 0, *, symmetric: bool = False, search: str = "mse"
) -> BlockScheme:
    """Find scales and zero points for `[rows, columns]` weights.

    Args:
        rows: Finite floating-point numbers; may be a read-only view of a file, read in pieces.
        bits: Width of the integers, 2 to 8.
        block: Numbers along a row that share a scale; 0 for the whole row.
        symmetric: Zero points are `2**(bits - 1)`; otherwise each block has its own.
        search: One of `SEARCHES`.

    Raises:
        ValueError: `bits`, `block` or `search` is out of range.
    """
    if not 2 <= bits <= 8 or block < 0 or search not in SEARCHES:
        raise ValueError(f"no such scheme: bits={bits}, block={block}, search={search!r}")
    count, columns = rows.shape
    block = block or columns
    blocks = -(-columns // block)
    scale = np.empty((count, blocks), np.float32)
    zero = np.empty((count, blocks), np.uint8)
    squared_error = squared_sum = 0.0
    for part in pieces(rows):
        piece = np.asarray(rows[part], np.float32)
        # Zeros are exact in any block, so filling up with them changes no error.
        padded = np.pad(piece, ((0, 0), (0, blocks * block - columns))).reshape(-1, block)
        found = _fit(padded, bits, symmetric, search)
        scale[part] = found.scale.reshape(-1, blocks)
        zero[part] = found.zero.reshape(-1, blocks)
        squared_error += float(found.error.sum(dtype=np.float64))
        squared_sum += float(np.square(piece, dtype=np.float64).sum())
    return BlockScheme(
        bits, block, columns, scale, None if symmetric else zero, squared_error, squared_sum
    )


@dataclass(frozen=True)
class _Fit:
    scale: Array
    zero: Array
    error: Array

    def better(self, other: _Fit) -> _Fit:
        """Take the better of two, block by block; the first where they are equal."""
        worse = other.error < self.error
        return _Fit(
            np.where(worse, other.scale, self.scale),
            np.where(worse, other.zero, self.zero),
            np.where(worse, other.error, self.error),
        )


def _fit(x: Array, bits: int, symmetric: bool, search: str) -> _Fit:
    """Fit each row of `x`, which is a block."""
    levels, middle = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)

    def attempt(width: float) -> _Fit:
        if symmetric:
            scale = np.maximum(-low, high) * np.float32(width) / (middle - 1)
        else:
            scale = (high - low) * np.float32(width) / levels
        scale = np.where(high > low, np.maximum(scale, _LEAST_SCALE), np.float32(1))
        if symmetric:
            return judge(scale, np.full_like(scale, middle))
        return judge(scale, np.clip(np.rint(-low * np.float32(width) / scale), 0, levels))

    def judge(scale: Array, zero: Array) -> _Fit:
        difference = steps(scale, zero) * scale[:, None] - x
        return _Fit(scale, zero, np.einsum("ij,ij->i", difference, difference))

    def steps(scale: Array, zero: Array) -> Array:
        q = x / scale[:, None]
        np.rint(q, out=q)
        return np.clip(q, -zero[:, None], levels - zero[:, None], out=q)

    best = attempt(1.0)
    if search == "range":
        return best
    for width in np.linspace(_WIDEST, _NARROWEST, _STEPS):
        best = best.better(attempt(float(width)))
    for _ in range(_ALTERNATIONS):
        d = steps(best.scale, best.zero)
        squares = np.einsum("ij,ij->i", d, d)
        fitted = np.einsum("ij,ij->i", d, x) / np.where(squares > 0, squares, 1)
        usable = (squares > 0) & (fitted > _LEAST_SCALE)
        best = best.better(judge(np.where(usable, fitted, best.scale), best.zero))
    return best


def scaled(scheme: BlockScheme, factor: float) -> BlockScheme:
    """Return the scheme of the same integers for weights multiplied by a positive factor."""
    return replace(scheme, scale=scheme.scale * np.float32(factor))


def pack(integers: Array, bits: int) -> NDArray[np.uint8]:
    """Pack integers below `2**bits` along the last axis, the first into the lowest bits.

    Args:
        integers: uint8, of any shape; the last axis is filled up with zeros to whole bytes.
        bits: 1, 2, 4 or 8.
    """
    if bits == 8:
        return np.ascontiguousarray(integers)
    share = 8 // bits
    missing = -integers.shape[-1] % share
    if missing:
        widths = [(0, 0)] * (integers.ndim - 1) + [(0, missing)]
        integers = np.pad(integers, widths)
    result = np.zeros((*integers.shape[:-1], integers.shape[-1] // share), np.uint8)
    for index in range(share):
        result |= integers[..., index::share] << np.uint8(index * bits)
    return result


def pieces(rows: Array) -> Iterator[slice]:
    """Yield slices of the first axis that hold about a million numbers each."""
    step = max(1, _PIECE // max(1, rows[:1].size))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)
