# SPDX-License-Identifier: Apache-2.0
"""Weights that stay where they are while onnx-graphsurgeon has the model.

Each constant of its graph stands for one, and reads it only when a function asks for its values.
Imported only when a graphsurgeon pass runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs  # noqa: TID253  (this module itself is imported late)
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues  # noqa: TID253

from burnish.passes.report import all_graphs

_LOCATION = "burnish.weight:"  # with a number behind it
_COMPARE_BYTES = 1 << 24  # that are compared at a time


class Weights:
    """The tensors kept aside, and what stands for them meanwhile."""

    def __init__(self) -> None:
        self.tensors: list[ir.TensorProtocol] = []
        self.exporting = False
        self._read: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}

    def keep(self, tensor: ir.TensorProtocol) -> int:
        """Keep a tensor; returns its number."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def detach(self, model: ir.Model) -> None:
        """Put a placeholder in place of every tensor of `model`."""
        for graph in all_graphs(model):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = self._placeholder(value.const_value, value.name)
            for node in graph:
                for name, attribute in node.attributes.items():
                    if _is_tensor(attribute):
                        tensor = self._placeholder(attribute.value, None)
                        node.attributes[name] = ir.AttrTensor(
                            name, tensor, doc_string=attribute.doc_string
                        )

    def attach(self, model: ir.Model) -> None:
        """Put the tensors back in place of the placeholders."""
        for graph in all_graphs(model):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = self._original(value.const_value)
            for node in graph:
                for name, attribute in node.attributes.items():
                    if _is_tensor(attribute):
                        tensor = self._original(attribute.value)
                        node.attributes[name] = ir.AttrTensor(
                            name, tensor, doc_string=attribute.doc_string
                        )

    def lend(self, graph: gs.Graph) -> None:
        """Let the constants of an imported graph stand for the tensors."""
        for constant in _constants(graph):
            number = _number_of(_location(constant._values.tensor))
            if number is not None:
                constant._values = _Weight(self, number)

    def take(self, graph: gs.Graph) -> None:
        """Keep the arrays that a function put into constants, so that exporting copies none."""
        for constant in _constants(graph):
            array = constant._values
            # With another `export_dtype`, graphsurgeon has yet to convert it.
            if isinstance(array, np.ndarray) and constant._export_dtype in (None, array.dtype):
                constant._values = _Weight(self, self._number_of_array(array))

    def read(self, number: int) -> np.ndarray:
        """Return a copy of a tensor that a function may write to."""
        array = _array_of(self.tensors[number])
        self._read[id(array)] = (weakref.ref(array), number)
        return array

    def _number_of_array(self, array: np.ndarray) -> int:
        reference, number = self._read.get(id(array), (None, -1))
        lent = reference is not None and reference() is array
        if lent and _holds(self.tensors[number], array):
            return number  # read but not written to
        return self.keep(_tensor_of(array))

    def _placeholder(self, tensor: ir.TensorProtocol, name: str | None) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            f"{_LOCATION}{self.keep(tensor)}",
            None,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name or tensor.name or "",
        )

    def _original(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        number = _number_of(str(tensor.location))
        return tensor if number is None else self.tensors[number]


class _Weight(LazyValues):
    """Values of a constant, read from the kept tensor when they are asked for."""

    def __init__(self, weights: Weights, number: int) -> None:
        self.weights = weights
        self.number = number
        source = weights.tensors[number]
        described = onnx.TensorProto(data_type=source.dtype.value, dims=source.shape.numpy())
        self.shape = list(described.dims)
        self.dtype = gs.importers.onnx_importer.get_onnx_tensor_dtype(described)
        self.nbytes = source.nbytes

    @property
    def tensor(self) -> onnx.TensorProto:
        """What graphsurgeon exports: the data, or in our own exports its number."""
        source = self.weights.tensors[self.number]
        if self.weights.exporting:
            proto = onnx.TensorProto(data_type=source.dtype.value, dims=source.shape.numpy())
            proto.data_location = onnx.TensorProto.EXTERNAL
            proto.external_data.add(key="location", value=f"{_LOCATION}{self.number}")
            return proto
        return ir.serde.serialize_tensor(
            ir.tensor(source.numpy()) if isinstance(source, ir.ExternalTensor) else source
        )

    def load(self) -> np.ndarray:
        return self.weights.read(self.number)

    def __deepcopy__(self, memo: Any) -> _Weight:
        return self


def _is_tensor(attribute: ir.Attr) -> bool:
    return attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()


def _location(proto: onnx.TensorProto) -> str:
    return next((entry.value for entry in proto.external_data if entry.key == "location"), "")


def _number_of(location: str) -> int | None:
    return int(location[len(_LOCATION) :]) if location.startswith(_LOCATION) else None


def _array_of(tensor: ir.TensorProtocol) -> np.ndarray:
    """Return a new array, of strings where graphsurgeon would give strings."""
    if tensor.dtype == ir.DataType.STRING:
        return onnx.numpy_helper.to_array(ir.serde.serialize_tensor(tensor))
    return np.array(tensor.numpy())


def _tensor_of(array: np.ndarray) -> ir.TensorProtocol:
    if array.dtype.kind not in "OSU":
        return ir.tensor(array)
    data = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
    return ir.StringTensor(data, shape=ir.Shape(array.shape))


def _holds(tensor: ir.TensorProtocol, array: np.ndarray) -> bool:
    """Whether a tensor is equal to an array, bit by bit; takes little memory."""
    if tensor.dtype == ir.DataType.STRING:
        return np.array_equal(_array_of(tensor), array)
    other = tensor.numpy()
    if array.dtype != other.dtype or array.shape != other.shape:
        return False
    mine = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    theirs = np.ascontiguousarray(other).reshape(-1).view(np.uint8)
    return all(
        np.array_equal(mine[at : at + _COMPARE_BYTES], theirs[at : at + _COMPARE_BYTES])
        for at in range(0, mine.size, _COMPARE_BYTES)
    )


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Yield every constant of a graph, its subgraphs, functions and attributes, once."""
    seen: set[int] = set()
    pending: list[gs.Graph] = [graph, *graph.functions]
    while pending:
        each = pending.pop()
        tensors = [*each.inputs, *each.outputs]
        for node in each.nodes:
            tensors += [*node.inputs, *node.outputs]
            for attribute in node.attrs.values():
                if isinstance(attribute, gs.Graph):
                    pending.append(attribute)
                elif isinstance(attribute, gs.Tensor):
                    tensors.append(attribute)
        for tensor in tensors:
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
