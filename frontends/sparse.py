# SPDX-License-Identifier: Apache-2.0
"""Sparse initializers become dense: what passes work on, and what runtimes compute with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx


def densify(proto: onnx.ModelProto, where: str) -> list[str]:
    """Turn the sparse initializers of the main graph into dense ones; returns notes.

    Raises:
        InputError: one is malformed.
    """
    graph = proto.graph
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, where))
    count = len(graph.sparse_initializer)
    del graph.sparse_initializer[:]
    return [f"{count} sparse initializers were made dense"] if count else []


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    name, shape = sparse.values.name, tuple(sparse.dims)
    try:
        if not name or not shape or min(shape) < 1:
            raise ValueError("it has no name or no shape")
        values = numpy_helper.to_array(sparse.values)
        places = numpy_helper.to_array(sparse.indices).astype(np.int64)
        if places.ndim == 2:
            if places.shape[1] != len(shape):
                raise ValueError("its indices have another rank than its shape")
            places = np.ravel_multi_index(tuple(places.T), shape)
        dense = np.zeros(math.prod(shape), values.dtype)
        if places.shape != values.shape or (places < 0).any() or (places >= dense.size).any():
            raise ValueError("its indices do not fit its values or its shape")
        dense[places] = values
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: sparse initializer {name!r} is malformed: {error}",
            hint="export dense weights",
        ) from error
    return numpy_helper.from_array(dense.reshape(shape), name)
