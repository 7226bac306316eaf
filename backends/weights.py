# SPDX-License-Identifier: Apache-2.0
"""Where the tensors of a model lie, and how to serialize it as if they lay elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir


def initialized(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Value, ir.TensorProtocol]]:
    """Every initializer that has a tensor, subgraphs included, with the graph it belongs to."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield graph, value, value.const_value


def external_attributes(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr, ir.ExternalTensor]]:
    """Every tensor attribute, of a Constant mostly, whose data lie in a file."""
    import onnx_ir as ir

    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node in body.all_nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    tensor = attribute.value
                    if isinstance(tensor, ir.ExternalTensor):
                        yield node, attribute, tensor


def in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """The same tensor, as a view of its mapped file.

    Raises:
        InputError: the file is too short.
        OSError: it cannot be opened.
    """
    import onnx_ir as ir

    try:
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    except ValueError as error:
        raise InputError(
            f"external data {tensor.path} is too short for {tensor.name!r}",
            hint="copy or download the file again",
        ) from error


@contextmanager
def tensors_replaced(values: Iterable[tuple[ir.Value, ir.TensorProtocol]]) -> Iterator[None]:
    """Within the context, the values hold the tensors given beside them."""
    held = []
    try:
        for value, tensor in values:
            held.append((value, value.const_value))
            value.const_value = tensor
        yield
    finally:
        for value, original in held:
            value.const_value = original


@contextmanager
def attributes_in_memory(model: ir.Model) -> Iterator[None]:
    """Within the context, no attribute refers to a file. Runtimes read those of weights only."""
    import onnx_ir as ir

    held = []
    try:
        for node, attribute, tensor in list(external_attributes(model)):
            held.append((node, attribute))
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, in_memory(tensor))
        yield
    finally:
        for node, attribute in held:
            node.attributes[attribute.name] = attribute
