# SPDX-License-Identifier: Apache-2.0
"""Means over all positions, in the one form that has an int8 kernel."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.constant import as_array

RULE = "pool-mean"


def is_pool(node: ir.Node) -> bool:
    """Whether a ReduceMean computes what GlobalAveragePool does: the mean of each channel."""
    value = node.inputs[0] if node.op_type == "ReduceMean" and node.domain == "" else None
    if value is None or value.shape is None or not node.attributes.get_int("keepdims", 1):
        return False
    rank = value.shape.rank()
    axes = node.attributes.get("axes")
    if axes is not None:
        given = list(axes.as_ints())
    else:
        array = as_array(node.inputs[1]) if len(node.inputs) > 1 else None
        given = [] if array is None else array.reshape(-1).tolist()
    return rank > 2 and sorted(axis % rank for axis in given) == list(range(2, rank))


def make_pool(node: ir.Node) -> None:
    """Make a GlobalAveragePool of such a ReduceMean, in place."""
    node.op_type = "GlobalAveragePool"
    node.resize_inputs(1)
    for name in ("axes", "keepdims", "noop_with_empty_axes"):
        node.attributes.pop(name, None)
