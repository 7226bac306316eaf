# SPDX-License-Identifier: Apache-2.0
"""Sparse constants become dense: what passes work on, and what runtimes compute with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx


def densify(proto: onnx.ModelProto, where: str) -> list[str]:
    """Turn sparse initializers, and sparse values of Constants, into dense ones; returns notes.

    Raises:
        InputError: one is malformed.
    """
    initializers = constants = 0
    for graph in _graphs(proto.graph):
        initializers += len(graph.sparse_initializer)
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, sparse.values.name, "initializer", where))
        del graph.sparse_initializer[:]
        constants += _densify_constants(graph.node, where)
    for function in proto.functions:
        constants += _densify_constants(function.node, where)
    counts = ((initializers, "sparse initializer"), (constants, "sparse Constant"))
    return [
        f"{count} {kind}{'s were' if count > 1 else ' was'} made dense"
        for count, kind in counts
        if count
    ]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _densify_constants(nodes: Iterable[onnx.NodeProto], where: str) -> int:
    found = 0
    for node in nodes:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        for attribute in node.attribute:
            if attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
                dense = _dense(attribute.sparse_tensor, node.output[0], "Constant", where)
                attribute.Clear()
                attribute.name, attribute.type = "value", attribute.TENSOR
                attribute.t.CopyFrom(dense)
                found += 1
    return found


def _dense(sparse: onnx.SparseTensorProto, name: str, kind: str, where: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    shape = tuple(sparse.dims)
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
            f"{where}: sparse {kind} {name!r} is malformed: {error}",
            hint="export dense weights",
        ) from error
    return numpy_helper.from_array(dense.reshape(shape), name)
