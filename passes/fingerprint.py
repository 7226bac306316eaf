# SPDX-License-Identifier: Apache-2.0
"""Fingerprint of a model: whether code that does not report its edits made any.

Linear in nodes and reads no weights: a tensor counts as changed when another object, or another
range of another file, stands in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

# Where onnx-ir keeps a GraphProto's quantization_annotation of a value.
QUANTIZATION_ANNOTATION = "quant_parameter_tensor_names"


@dataclass(frozen=True)
class Fingerprint:
    """Equal for two models when everything that would be saved of them is equal.

    Attributes:
        digest: sha256 of structure, names, types, attributes and metadata.
        tensors: The tensors it was taken of, kept so that their identities are not reused.
    """

    digest: bytes
    tensors: tuple[ir.TensorProtocol, ...] = field(compare=False, repr=False)


def fingerprint(model: ir.Model) -> Fingerprint:
    """Return the fingerprint of a model, its functions and subgraphs included."""
    walk = _Walk()
    walk.add(
        "model",
        model.ir_version,
        model.producer_name,
        model.producer_version,
        model.domain,
        model.model_version,
        model.doc_string,
        model.device_configurations,
        _sorted(model.metadata_props),
    )
    walk.graph(model.graph)
    for identifier in sorted(model.functions):
        function = model.functions[identifier]
        walk.add("function", identifier, function.doc_string, _sorted(function.metadata_props))
        walk.attributes(function.attributes.values())
        walk.graph(function.graph)
    return Fingerprint(walk.hash.digest(), tuple(walk.tensors))


def graph_fingerprint(graph: ir.Graph) -> Fingerprint:
    """Return the fingerprint of one graph and its subgraphs."""
    walk = _Walk()
    walk.graph(graph)
    return Fingerprint(walk.hash.digest(), tuple(walk.tensors))


class _Walk:
    """Feeds what it visits to a hash."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.tensors: list[ir.TensorProtocol] = []

    def add(self, *items: Any) -> None:
        # repr of strings, numbers and tuples of them is unambiguous, and of floats exact.
        self.hash.update(repr(items).encode("utf-8", "surrogatepass"))

    def graph(self, graph: ir.Graph) -> None:
        self.add("graph", graph.name, graph.doc_string, _sorted(graph.metadata_props))
        self.add(_sorted(graph.opset_imports))
        for value in graph.inputs:
            self.value(value)
        for name in sorted(graph.initializers):
            value = graph.initializers[name]
            self.value(value)
            self.tensor(value.const_value)
        for node in graph:
            self.node(node)
        self.add("outputs", [value.name for value in graph.outputs])

    def node(self, node: ir.Node) -> None:
        self.add(
            node.domain,
            node.op_type,
            node.overload,
            node.name,
            node.doc_string,
            node.device_configurations,
            _sorted(node.metadata_props),
            [None if value is None else value.name for value in node.inputs],
        )
        for value in node.outputs:
            self.value(value)
        self.attributes(node.attributes.values())

    def value(self, value: ir.Value) -> None:
        shape = None if value.shape is None else [str(dim) for dim in value.shape]
        props = _sorted(value.metadata_props)
        annotation = _sorted(value.meta.get(QUANTIZATION_ANNOTATION) or {})
        self.add(value.name, str(value.type), shape, value.doc_string, props, annotation)

    def attributes(self, attributes: Iterable[ir.Attr]) -> None:
        for item in sorted(attributes, key=lambda item: item.name):
            self.add(item.name, item.type.name, item.ref_attr_name, item.doc_string)
            match item.type:
                case _ if item.is_ref() or item.value is None:
                    pass
                case ir.AttributeType.GRAPH:
                    self.graph(item.as_graph())
                case ir.AttributeType.GRAPHS:
                    for graph in item.as_graphs():
                        self.graph(graph)
                case ir.AttributeType.TENSOR:
                    self.tensor(item.value)
                case ir.AttributeType.TENSORS:
                    for tensor in item.value:
                        self.tensor(tensor)
                case _:
                    self.add(str(item.value))

    def tensor(self, tensor: ir.TensorProtocol | None) -> None:
        if tensor is None:
            return self.add(None)
        self.add(tensor.dtype.name, [str(dim) for dim in tensor.shape])
        if isinstance(tensor, ir.ExternalTensor):
            return self.add(tensor.path, tensor.offset, tensor.length)
        self.tensors.append(tensor)
        return self.add(id(tensor))


def _sorted(items: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(items.items())
