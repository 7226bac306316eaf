# SPDX-License-Identifier: Apache-2.0
"""Putting new constants into a graph, whichever form they have to take there."""

from __future__ import annotations

import onnx_ir as ir


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
