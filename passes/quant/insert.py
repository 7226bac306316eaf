# SPDX-License-Identifier: Apache-2.0
"""Adding integer constants and nodes to a graph under reproducible names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes.edit import drop_initializer, names_of, remove_unused


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph, under `name` or, if that is taken, with a number behind it."""
    return add_tensor(graph, name, ir.tensor(array))


def add_tensor(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a constant of any type to a graph, as `add_initializer` does; does not read it."""
    tensor.name = names_of(graph).fresh(name)
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def make_node(
    graph: ir.Graph,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    outputs: Mapping[str, tuple[ir.DataType, ir.Shape | None]],
    *,
    attributes: Mapping[str, int | list[int]] | None = None,
    base: str,
) -> ir.Node:
    """Make a node, named after `base`, for the caller to insert into `graph`.

    Args:
        graph: Where it will go: names are unique there.
        op_type: Of the standard domain.
        inputs: Its inputs.
        outputs: Wanted name -> type and shape of each output.
        attributes: Its attributes.
        base: First part of its name.
    """
    names = names_of(graph)
    node = ir.node(
        op_type,
        inputs,
        attributes,
        num_outputs=len(outputs),
        name=names.fresh(f"{base}/{op_type}"),
    )
    for value, (name, (dtype, shape)) in zip(node.outputs, outputs.items(), strict=True):
        value.name = names.fresh(name)
        value.dtype, value.shape = dtype, shape
    return node


def insert_pair(
    value: ir.Value,
    graph: ir.Graph,
    scale: ir.Value,
    zero_point: ir.Value,
    *,
    dtype: ir.DataType,
    names: tuple[str, str],
) -> ir.Value:
    """Put QuantizeLinear and DequantizeLinear right behind what makes a value.

    Args:
        value: float32; its users are left as they are.
        graph: Where it is made, or is an input of.
        scale: float32, of one element.
        zero_point: Of `dtype` and one element.
        dtype: What to quantize to.
        names: Wanted names of the quantized value, and of what is returned.

    Returns:
        The value, quantized and dequantized again.
    """
    base = value.name or "input"
    quantized, dequantized = names
    quantize = make_node(
        graph,
        "QuantizeLinear",
        [value, scale, zero_point],
        {quantized: (dtype, value.shape)},
        base=base,
    )
    dequantize = make_node(
        graph,
        "DequantizeLinear",
        [quantize.outputs[0], scale, zero_point],
        {dequantized: (ir.DataType.FLOAT, value.shape)},
        base=base,
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    return dequantize.outputs[0]


def digest(*arrays: np.ndarray) -> bytes:
    """Return a fingerprint of the contents of arrays, by which equal constants are shared."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    return sha.digest()


def drop_unused(values: Sequence[ir.Value | None]) -> None:
    """Remove constants that lost their last user, and the nodes that made them."""
    for value in values:
        if value is None or value.uses():
            continue
        producer = value.producer()
        if producer is not None:
            remove_unused([producer])
        else:
            drop_initializer(value)
