# SPDX-License-Identifier: Apache-2.0
"""Constants of a graph: initializers and Constant nodes, also behind operators that only view them.

An initializer that is a graph input too is a default the caller may override (ONNX IR version 4),
so it is not a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

# Operators that only copy or re-view their first input.
_VIEWS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})
_MAX_DEPTH = 8


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node's output, without reading it."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "":
        return None
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None or attribute.is_ref():
        return None
    kind, held = attribute.type, attribute.value
    if kind == ir.AttributeType.TENSOR:
        # Not `as_tensor`, which asks whether it is a tensor by comparing lists of methods.
        tensor: ir.TensorProtocol = held
        return tensor
    if kind in (ir.AttributeType.INT, ir.AttributeType.INTS):
        return ir.tensor(np.array(held, dtype=np.int64))
    if kind in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return ir.tensor(np.array(held, dtype=np.float32))
    return None


def is_constant(value: ir.Value | None) -> bool:
    """Whether `as_array` would succeed; reads no weights."""
    return _root(value) is not None


def as_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of a constant, also behind Identity, Cast, Reshape and the like, or None.

    The result may be a read-only view of a memory-mapped file: do not write to it.
    """
    root = _root(value)
    if root is None:
        return None
    tensor, views = root
    if tensor.dtype == ir.DataType.STRING:
        return np.asarray(tensor.numpy(), dtype=object)
    array = tensor.numpy()
    for node in views:
        array = _apply_view(node, array)
    return array


def scalar_of(value: ir.Value | None) -> float | None:
    """Return the one number of a constant of a single element, or None."""
    root = _root(value)
    if root is None or root[0].size != 1 or root[0].dtype == ir.DataType.STRING:
        return None
    array = as_array(value)
    return None if array is None else array.reshape(()).astype(np.float64).item()


def _root(value: ir.Value | None) -> tuple[ir.TensorProtocol, Sequence[ir.Node]] | None:
    """Return the tensor at the end of a chain of views, and the views, innermost first."""
    views: list[ir.Node] = []
    while value is not None and len(views) <= _MAX_DEPTH:
        tensor = tensor_of(value)
        if tensor is not None:
            return tensor, views[::-1]
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _VIEWS or not node.inputs:
            return None
        if not all(tensor_of(extra) is not None for extra in node.inputs[1:] if extra is not None):
            return None
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return None
        views.append(node)
        value = node.inputs[0]
    return None


def _apply_view(node: ir.Node, array: np.ndarray) -> np.ndarray:
    second = tensor_of(node.inputs[1]) if len(node.inputs) > 1 else None
    ints = None if second is None else [int(item) for item in second.numpy().reshape(-1)]
    match node.op_type:
        case "Identity":
            return array
        case "Cast":
            kind = ir.DataType(node.attributes["to"].as_int())
            return array.astype(kind.numpy())
        case "Transpose":
            return array.transpose(node.attributes.get_ints("perm"))
        case "Flatten":
            axis = node.attributes.get_int("axis", 1)
            axis += array.ndim if axis < 0 else 0
            return array.reshape(int(np.prod(array.shape[:axis], dtype=np.int64)), -1)
        case "Reshape":
            assert ints is not None
            keep_zero = node.attributes.get_int("allowzero", 0) == 1
            dims = [
                array.shape[i] if dim == 0 and not keep_zero else dim for i, dim in enumerate(ints)
            ]
            return array.reshape(dims)
    if ints is None and (attribute := node.attributes.get("axes")) is not None:
        ints = list(attribute.as_ints())
    if node.op_type == "Unsqueeze":
        assert ints is not None
        return np.expand_dims(array, tuple(ints))
    # The runtime takes no axes for all of size 1, as where they are missing.
    return np.squeeze(array, axis=tuple(ints) if ints else None)
