# SPDX-License-Identifier: Apache-2.0
"""What ONNX's version converter gets wrong: upgrades to refuse, and results to put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from burnish.passes.constant import as_array


@dataclass(frozen=True)
class OtherAxis:
    """A node that stays, with another `axis`."""

    node: ir.Node
    axis: int

    def apply(self) -> None:
        """Edit the graph."""
        self.node.attributes.add(ir.AttrInt64("axis", self.axis))


def meant_a_matrix(node: ir.Node, old: int, new: int) -> bool:
    """Whether an operator took its input for a matrix, and takes one axis alone from 13 on."""
    return node.op_type in ("Hardmax", "LogSoftmax", "Softmax") and old < 13 <= new


def only_axis(node: ir.Node) -> int | None:
    """Return the axis that makes the rows of the matrix, split at `axis`, if it is just one.

    The converter flattens the input, though where all other sizes are 1 nothing need change: a
    network that ends in [N, 1000, 1, 1] would run three nodes for one.
    """
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    first = node.attributes.get_int("axis", 1)
    if shape is None or not -len(shape) <= first < len(shape):
        return None
    rows = range(first % len(shape), len(shape))
    long = [axis for axis in rows if shape[axis] != 1]
    if len(long) > 1:
        return None
    only = long[0] if long else len(shape) - 1
    return -1 if only == len(shape) - 1 else only


def obstacle(node: ir.Node, old: int, new: int) -> str | None:
    """Return why a node cannot be upgraded although the converter would do it, or None."""
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "it takes attributes of the function it is in"
    check = _OBSTACLES.get(node.op_type)
    return None if check is None else check(node, old, new)


def _scan(node: ir.Node, old: int, new: int) -> str | None:
    return "its inputs are batched before opset 9"


def _hardmax(node: ir.Node, old: int, new: int) -> str | None:
    # The converter leaves the node as it is, though it means something else.
    if not meant_a_matrix(node, old, new) or only_axis(node) is not None:
        return None
    return "it is over several axes at once, and over one from opset 13"


def _group_normalization(node: ir.Node, old: int, new: int) -> str | None:
    # Until 20 scale and bias are per group, from 21 on per channel; the converter ignores it.
    if old >= 21 or new < 21:
        return None
    return "its scale and bias are per group, and per channel from opset 21"


def _resize(node: ir.Node, old: int, new: int) -> str | None:
    if old >= 11 or new < 11 or _mode(node) != "nearest" or _rounding(node) is not None:
        return None
    return "its scales are not known, or partly below and partly above 1"


def _batch_normalization(node: ir.Node, old: int, new: int) -> str | None:
    if old >= 14 or new < 14 or len(node.outputs) == 1:
        return None
    return "its training form has other outputs from opset 14"


def _dropout(node: ir.Node, old: int, new: int) -> str | None:
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if old >= 10 or new < 10 or mask is None or not (mask.uses() or mask.is_graph_output()):
        return None
    return "its mask is boolean from opset 10"


def correct(node: ir.Node, made: list[ir.Node], old: int) -> None:
    """Put right what the converter gets wrong in place of a node of opset `old`."""
    if node.op_type == "Dropout" and len(node.outputs) > 1:
        node.outputs[1].type = ir.TensorType(ir.DataType.BOOL)  # see _dropout
    if node.op_type in ("Upsample", "Resize") and old < 11:
        # Before 11 a pixel's coordinate was that of its corner; the converter lets the default
        # of opset 11 take over, which is that of its centre.
        for resize in made:
            if resize.op_type == "Resize":
                resize.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
                if _mode(node) == "nearest":
                    resize.attributes.add(ir.AttrString("nearest_mode", _rounding(node) or ""))


def _mode(node: ir.Node) -> str:
    return node.attributes.get_string("mode", "nearest")


def _rounding(node: ir.Node) -> str | None:
    """How `nearest` rounded before opset 11, when ONNX had no attribute for it.

    The runtime rounds down when it enlarges and up when it shrinks; the operator tests of opset 10
    agree. None if the scales are not known or go both ways.
    """
    if "scales" in node.attributes:
        scales = list(node.attributes["scales"].as_floats())
    else:
        array = as_array(node.inputs[1])
        scales = [] if array is None else array.tolist()
    if not scales:
        return None
    if min(scales) >= 1:
        return "floor"
    return "ceil" if max(scales) <= 1 else None


_OBSTACLES: dict[str, Callable[[ir.Node, int, int], str | None]] = {
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "GroupNormalization": _group_normalization,
    "Hardmax": _hardmax,
    "Resize": _resize,
    "Scan": _scan,
    "Upsample": _resize,
}
