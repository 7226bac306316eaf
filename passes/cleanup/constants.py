# SPDX-License-Identifier: Apache-2.0
"""Putting new constants into a graph, whichever form they have to take there."""

from __future__ import annotations

import mmap

import numpy as np
import onnx_ir as ir

_LARGE = 2**20  # bytes of a tensor that is worth a detour


def tensor_of_array(array: np.ndarray) -> ir.TensorProtocol:
    """Return a tensor; a large view of a mapped file stays one, copied whenever it is read.

    Transposing the weights of a model that is larger than memory then takes none of it.
    """
    mapping = _mapping_of(array)
    if mapping is None or array.nbytes < _LARGE:
        return ir.tensor(array)

    def read() -> ir.TensorProtocol:
        copy = np.ascontiguousarray(array)
        if hasattr(mapping, "madvise"):
            # Pages that were read would count as memory used until the file is unmapped.
            mapping.madvise(mmap.MADV_DONTNEED)
        return ir.tensor(copy)

    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(array.shape))


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """Return the mapped file an array is a view of, if it is."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def initializer(tensor: ir.TensorProtocol) -> ir.Value:
    """Return a value that holds a tensor; it still needs a name and a graph."""
    return ir.Value(
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def constant_before(node: ir.Node, tensor: ir.TensorProtocol) -> ir.Value:
    """Put a Constant node in front of a node: functions have no initializers."""
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
    (value,) = constant.outputs
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    assert node.graph is not None
    node.graph.insert_before(node, constant)
    return value
