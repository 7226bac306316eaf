# SPDX-License-Identifier: Apache-2.0
"""What is known of a shape computation whose result is not constant as a whole.

Exporters compute shapes in the graph: Shape, then Gather, Mul, Concat, and a Reshape takes the
result. Each element is followed by itself, because most are known even where a batch size is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.partial.elementwise import cast, combined, selected
from burnish.passes.cleanup.partial.partial import Dim, Partial
from burnish.passes.cleanup.partial.rearrange import (
    concatenated,
    gathered,
    reshaped,
    sliced,
    unsqueezed,
)

FOLLOWED = frozenset(
    {"Shape", "Size", "Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Slice"}
    | {"Concat", "Add", "Sub", "Mul", "Equal", "Where"}
)
"""Operators that `follow` knows."""


def follow(node: ir.Node, known: Mapping[ir.Value, Partial]) -> Partial | None:
    """Return what is known of the only output of a node, or None.

    Args:
        node: A node of the default domain, all of whose attributes have values.
        known: What is known of its inputs; constants included.
    """
    if node.op_type == "Shape":
        return _shape(node)
    if node.op_type == "Size":
        return _size(node)
    inputs = [None if value is None else known.get(value) for value in node.inputs]
    first = inputs[0] if inputs else None
    if first is None:
        return None
    match node.op_type:
        case "Identity":
            return first
        case "Cast":
            return cast(node, first)
        case "Unsqueeze":
            return unsqueezed(node, first, inputs)
        case "Squeeze":
            single = not first.scalar and len(first.elements) == 1
            return Partial(first.elements, True, first.dtype) if single else None
        case "Reshape":
            return reshaped(first, inputs[1])
        case "Gather":
            return gathered(first, inputs[1])
        case "Slice":
            return sliced(node, inputs)
        case "Concat":
            return concatenated(inputs)
        case "Add" | "Sub" | "Mul" | "Equal":
            return combined(node.op_type, first, inputs[1])
        case "Where":
            return selected(first, inputs[1], inputs[2])
    return None


def _shape(node: ir.Node) -> Partial | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    # A static size is the contract of whoever declared it, as the runtime takes it too.
    elements = tuple(
        dim if isinstance(dim, int) else Dim(value, axis)
        for axis, dim in enumerate(value.shape.dims)
    )
    window = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))
    return Partial(elements[window], False, np.dtype(np.int64))


def _size(node: ir.Node) -> Partial | None:
    value = node.inputs[0]
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    size = 1
    for dim in value.shape.numpy():
        size *= dim
    return Partial((size,), True, np.dtype(np.int64))
