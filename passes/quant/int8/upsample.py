# SPDX-License-Identifier: Apache-2.0
"""Repeats pixels of int8 maps, channels last, by joining them with themselves.

Between int8 convolutions maps have their channels last, and there ONNX Runtime's Resize works out
each number's place for itself (1.31: 892 us for 60 x 60 x 96 to twice that, on one thread). Joined
with itself along the channels each pixel is repeated beside itself, joined along the columns each
row is; what is left is to read the same bytes as a larger map: 77 us for all three.

    [N, H, W, C] -> [N, H, W, b C] -> [N, H, a W, b C] = [N, a H, b W, C]
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.quant.insert import add_initializer, make_node

_MOST = 64
"""Copies of a pixel."""


def repeats(node: ir.Node) -> tuple[int, int] | None:
    """Return how often a Resize of maps repeats rows and columns, or None if it does not."""
    value = node.inputs[0] if node.op_type == "Resize" and node.domain == "" else None
    shape = None if value is None else value.shape
    if shape is None or shape.rank() != 4 or not isinstance(shape[1], int):
        return None
    given = as_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if given is None or given.size != 4 or "axes" in node.attributes or not _nearest(node):
        return None
    factors = [int(scale) for scale in given]
    if factors != given.tolist() or factors[:2] != [1, 1] or min(factors) < 1:
        return None
    rows, columns = factors[2:]
    if rows * columns > _MOST or (rows != columns and not isinstance(shape[3], int)):
        return None
    return rows, columns


def _nearest(node: ir.Node) -> bool:
    text = node.attributes.get_string
    kind = text("coordinate_transformation_mode", "half_pixel")
    rounding = text("nearest_mode", "round_prefer_floor")
    return text("mode", "nearest") == "nearest" and (
        (kind, rounding) == ("asymmetric", "floor")
        or (kind == "half_pixel" and rounding.startswith("round_prefer"))
    )


def repeat(node: ir.Node, integers: ir.Value, factors: tuple[int, int]) -> ir.Value:
    """Write before a Resize what repeats integers `[N, C, H, W]`; returns `[N, C, a H, b W]`."""
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    assert integers.shape is not None
    channels, width = integers.shape[1], integers.shape[3]
    assert isinstance(channels, int)
    base = node.name or output.name or node.op_type
    rows, columns = factors

    def add(
        op_type: str, inputs: list[ir.Value], *, last: bool = False, **attributes: int | list[int]
    ) -> ir.Value:
        kind = (integers.dtype or ir.DataType.UINT8, output.shape if last else None)
        made = make_node(
            graph,
            op_type,
            inputs,
            {f"{base}/{op_type.lower()}": kind},
            attributes=attributes,
            base=base,
        )
        graph.insert_before(node, made)
        return made.outputs[0]

    value = add("Transpose", [integers], perm=[0, 2, 3, 1])
    for axis, count in ((3, columns), (2, rows)):
        if count > 1:
            value = add("Concat", [value] * count, axis=axis)
    # 0 is the size that is there: a W, which then is b W.
    assert rows == columns or isinstance(width, int)
    wide = columns * width if isinstance(width, int) else 0
    shape = add_initializer(graph, f"{base}/shape", np.array([0, -1, wide, channels]))
    value = add("Reshape", [value, shape])
    return add("Transpose", [value], last=True, perm=[0, 3, 1, 2])
