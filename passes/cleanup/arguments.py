# SPDX-License-Identifier: Apache-2.0
"""Arguments that are an attribute in old operator sets and a constant input in new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.rule import Builder

# Since which opset the axes of these are an input.
_AXES_INPUT_SINCE = 13
_SLICE_INPUTS_SINCE = 10

Bounds = dict[int, tuple[int, int, int]]
"""What a Slice keeps: axis -> start, end, step."""

TO_THE_END = 2**31 - 1
"""An end from which on a Slice takes all that is left: no axis is that long."""


def is_given(node: ir.Node, name: str, index: int) -> bool:
    """Whether the node carries the argument, in either form."""
    there = len(node.inputs) > index and node.inputs[index] is not None
    return there or name in node.attributes


def ints_of(node: ir.Node, name: str, index: int) -> tuple[int, ...] | None:
    """Return the argument, or None if it is missing or not constant.

    Of Squeeze, no axes are as if missing: the runtime then takes all axes of size 1.

    Args:
        node: The node.
        name: Name of the attribute.
        index: Position of the input.
    """
    if len(node.inputs) > index and node.inputs[index] is not None:
        array = as_array(node.inputs[index])
        found = None if array is None else tuple(map(int, array.reshape(-1)))
    else:
        attribute = node.attributes.get(name)
        missing = attribute is None or attribute.is_ref()
        found = None if missing or attribute is None else tuple(attribute.as_ints())
    return None if node.op_type == "Squeeze" and not found else found


def bounds_of(node: ir.Node, rank: int | None) -> Bounds | None:
    """Return the bounds of a Slice, or None if they are not constant.

    Args:
        node: The Slice.
        rank: Number of axes; axes that count from the end do so still where it is not known.
    """
    starts, ends = ints_of(node, "starts", 1), ints_of(node, "ends", 2)
    if starts is None or ends is None or has_reference(node):
        return None
    axes = ints_of(node, "axes", 3) if is_given(node, "axes", 3) else tuple(range(len(starts)))
    steps = ints_of(node, "steps", 4) if is_given(node, "steps", 4) else (1,) * len(starts)
    if axes is None or steps is None:
        return None
    known = [axis + rank if axis < 0 and rank is not None else axis for axis in axes]
    return dict(zip(known, zip(starts, ends, steps, strict=True), strict=True))


def has_reference(node: ir.Node) -> bool:
    """Whether an attribute gets its value from the caller of the function around the node."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def cast_target(node: ir.Node) -> ir.DataType | None:
    """Return the type a Cast or CastLike gives, or None if it is not known."""
    if node.op_type == "CastLike":
        like = node.inputs[1]
        return None if like is None else like.dtype
    to = node.attributes.get("to")
    if to is None or to.is_ref() or to.type != ir.AttributeType.INT:  # a name before opset 6
        return None
    return ir.DataType(to.as_int())


def with_axes(op: Builder, op_type: str, x: Any, axes: Sequence[int]) -> Any:
    """Build Squeeze or Unsqueeze in the form the operator set has."""
    if op.opset_imports.get("", 1) < _AXES_INPUT_SINCE:
        return op.node(op_type, [x], {"axes": list(axes)})
    return op.node(op_type, [x, np.array(axes, dtype=np.int64)], {})


def with_bounds(op: Builder, x: Any, bounds: Bounds) -> Any:
    """Build a Slice in the form the operator set has."""
    axes = sorted(bounds)
    starts, ends, steps = zip(*(bounds[axis] for axis in axes), strict=True)
    if op.opset_imports.get("", 1) < _SLICE_INPUTS_SINCE:
        assert set(steps) == {1}
        return op.Slice(x, starts=list(starts), ends=list(ends), axes=axes)
    return op.Slice(x, *(np.array(item, dtype=np.int64) for item in (starts, ends, axes, steps)))
