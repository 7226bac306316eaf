# SPDX-License-Identifier: Apache-2.0
"""What a narrower float type cannot hold: constants that overflow or vanish, values that do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from burnish.passes.constant import tensor_of
from burnish.passes.quant.weights.blocks import pieces

MASKING = frozenset({"Add", "Sub", "Mul", "Where", "Expand", "Concat", "ConstantOfShape"})
"""Operators by which attention masks are made of a large constant."""

# From here on a constant means "minus infinity, but finite".
_MASK = 1e8
# A constant of one number that is off by more is no longer what it was, 1e-12 in float16 say.
_LEAST_PRECISION = 1e-2


class Peak:
    """The largest finite magnitude of a value over many samples; a watcher of `collect`."""

    def __init__(self) -> None:
        self.largest = 0.0

    def update(self, array: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Observe an array."""
        flat = array.reshape(-1)
        for start in range(0, flat.size, 1 << 20):
            size = np.abs(flat[start : start + (1 << 20)])
            largest = float(size.max())
            if not math.isfinite(largest):
                largest = float(size.max(initial=0, where=np.isfinite(size)))
            self.largest = max(self.largest, largest)


def largest(dtype: ir.DataType) -> float:
    """Return the largest finite number of a float type."""
    return float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call]


def stand_in(value: ir.Value, users: Iterable[ir.Node], dtype: ir.DataType) -> np.ndarray | None:
    """Return a constant with its masking numbers replaced by ones that `dtype` can hold, or None.

    Numbers beyond 1e8 and beyond the type become half of its largest: what they are added to can
    no longer overflow, and softmax still gives 0. Infinities stay as they are.
    """
    tensor = tensor_of(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size == 0:
        return None
    if not all(user.op_type in MASKING and user.domain == "" for user in users):
        return None
    limit = largest(dtype)
    array = tensor.numpy()
    rows = np.atleast_1d(array)
    if not any(_masks(rows[part], limit).any() for part in pieces(rows)):
        return None
    half = np.float32(limit / 2)
    return np.where(_masks(array, limit), np.copysign(half, array), array)


def _masks(array: np.ndarray, limit: float) -> np.ndarray:
    size = np.abs(array)
    return np.asarray(np.isfinite(array) & (size > limit) & (size >= _MASK))


def obstacle(tensor: ir.TensorProtocol, dtype: ir.DataType) -> str | None:
    """Return why a float32 constant cannot be of type `dtype`, or None."""
    array = np.atleast_1d(tensor.numpy())
    peak = 0.0
    for part in pieces(array):
        size = np.abs(array[part])
        peak = max(peak, float(size.max(initial=0, where=np.isfinite(size))))
    if peak > largest(dtype):
        return "a constant is too large"
    rounded = float(np.float32(peak).astype(dtype.numpy()))
    if peak > 0 and abs(rounded - peak) > _LEAST_PRECISION * peak:
        return "a constant vanishes"
    return None


def in_type(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Return a tensor rounded to another float type; large ones as they are read."""
    from burnish.passes.fuse.rescale import LAZY_BYTES

    def compute() -> ir.TensorProtocol:
        with np.errstate(over="ignore"):
            return ir.tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype)

    if tensor.nbytes < LAZY_BYTES:
        return compute()
    return ir.LazyTensor(compute, dtype, ir.Shape(tensor.shape.numpy()))
