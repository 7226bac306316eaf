# SPDX-License-Identifier: Apache-2.0
"""Constants and arrays computed from them, and their sizes, known before they are computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import tensor_of

SMALL = 64 * 2**10
"""Bytes no one counts."""


def array_of(value: ir.Value, arrays: Mapping[ir.Value, np.ndarray]) -> np.ndarray:
    """Return the array of a value that is computed already, or a constant."""
    found = arrays.get(value)
    if found is None:
        tensor = tensor_of(value)
        assert tensor is not None
        found = tensor.numpy()
    return found


def bytes_of(value: ir.Value, arrays: Mapping[ir.Value, np.ndarray]) -> int | None:
    """Return the bytes of a known value; None where it has to be computed to say so."""
    if value in arrays:
        return arrays[value].nbytes
    tensor = tensor_of(value)
    if tensor is not None:
        return tensor.nbytes
    if value.shape is None or not value.shape.is_static():
        return None
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    return int(np.prod(value.shape.numpy(), dtype=np.float64) * value.dtype.itemsize)


def dtype_of(value: ir.Value, arrays: Mapping[ir.Value, np.ndarray]) -> ir.DataType:
    """Return the type of a known value whose bytes are known."""
    if value in arrays:
        return ir.DataType.from_numpy(arrays[value].dtype)
    assert value.dtype is not None
    return value.dtype
