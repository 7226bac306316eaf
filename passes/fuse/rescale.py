# SPDX-License-Identifier: Apache-2.0
"""Constants multiplied in float64 and rounded once, a block at a time, large ones when read."""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from burnish.passes.rule import NoMatch

FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)
"""Types whose constants are computed with: in float64, rounded once."""

LAZY_BYTES = 64 << 20
"""From this size on, weights are computed when they are read, and not kept."""

_BLOCK = 1 << 20  # elements taken to float64 at once


def rescaled(
    array: np.ndarray, factor: np.ndarray, axes: tuple[int, ...], *, lazy: bool = True
) -> ir.TensorProtocol | NoMatch:
    """Return array * factor, rounded once, as a tensor of the array's dtype.

    Refuses where the largest element along one of `axes` overflows or becomes subnormal: as long
    as it is a normal number, nothing smaller loses more than the largest one's rounding error.

    Args:
        array: Weights, perhaps mapped from a file.
        factor: float64, broadcasts to the weights.
        axes: Axes whose every index is checked.
        lazy: Whether large weights may be computed when they are read.
    """
    dtype = array.dtype
    later = lazy and array.nbytes >= LAZY_BYTES
    result = np.empty(0 if later else array.shape, dtype)
    peaks = [np.zeros(array.shape[axis]) for axis in axes]
    with np.errstate(all="ignore"):
        for part, scaled in blocks(array, factor):
            size = np.abs(scaled)
            for peak, axis in zip(peaks, axes, strict=True):
                along = axis % array.ndim
                found = size.max(axis=tuple(i for i in range(array.ndim) if i != along), initial=0)
                if along == 0:
                    peak[part] = found
                else:
                    np.maximum(peak, found, out=peak)
            if not later:
                result[part] = scaled
    low, high = normal_range(dtype)
    for peak in peaks:
        if not (peak <= high).all():  # a NaN is not
            return NoMatch("folding overflows")
        if ((peak != 0) & (peak < low)).any():
            return NoMatch("folding underflows")
    if not later:
        return ir.tensor(result)

    def compute() -> ir.TensorProtocol:
        whole = np.empty(array.shape, dtype)
        for part, scaled in blocks(array, factor):
            whole[part] = scaled
        return ir.tensor(whole)

    return ir.LazyTensor(compute, ir.DataType.from_numpy(dtype), ir.Shape(array.shape))


def blocks(array: np.ndarray, factor: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield array * factor in float64, a few rows at a time."""
    rows = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], rows):
        part = slice(start, start + rows)
        yield part, array[part].astype(np.float64) * (factor if len(factor) == 1 else factor[part])


def rounded(exact: np.ndarray, dtype: np.dtype, *, factor: bool = False) -> np.ndarray | NoMatch:
    """Return float64 numbers in another dtype, refusing what does not fit.

    A factor must not underflow. A summand may: what it is added to is no finer than its dtype.
    """
    size, (low, high) = np.abs(exact), normal_range(dtype)
    if not (size <= high).all():  # a NaN is not
        return NoMatch("folding overflows")
    if factor and ((size != 0) & (size < low)).any():
        return NoMatch("folding underflows")
    return exact.astype(dtype)


def epsilon(dtype: np.dtype) -> float:
    """Return the distance from 1 to the next number of a float dtype."""
    return float(_info(dtype).eps)


def normal_range(dtype: np.dtype) -> tuple[float, float]:
    """Return the smallest positive normal number of a float dtype, and its largest."""
    return float(_info(dtype).smallest_normal), float(_info(dtype).max)


def _info(dtype: np.dtype) -> ml_dtypes.finfo:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
