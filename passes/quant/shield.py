# SPDX-License-Identifier: Apache-2.0
"""Keeps float operators float that stand between quantized ones.

ONNX Runtime (1.31, `WeightBiasQuantization`) quantizes the float weights of a Conv, ConvTranspose
or Gemm by itself, with a single scale for all channels, if its input is dequantized with one scale
and its output is quantized. An operator left float on purpose would lose more than it could by
int8. It is not touched if its input is dequantized channel by channel; so it gets such a
DequantizeLinear of its own, with the one scale repeated: the same numbers at the same speed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.quant.insert import add_initializer, make_node
from burnish.passes.quant.placement import result_of

RULE = "keep-float"

_TOUCHED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def is_exposed(node: ir.Node) -> bool:
    """Whether the runtime would quantize a float operator by itself."""
    if node.op_type not in _TOUCHED or node.domain != "" or len(node.inputs) < 2:
        return False
    dq = _dequantizer(node)
    scale = None if dq is None else as_array(dq.inputs[1])
    if scale is None or scale.ndim > 0:
        return False
    weights = as_array(node.inputs[1])
    if weights is None or weights.dtype != np.float32:
        return False
    return any(user.op_type == "QuantizeLinear" for user in result_of(node).consumers())


def shield(node: ir.Node) -> None:
    """Let an exposed operator take its input through a DequantizeLinear by channel."""
    graph, value, dq = node.graph, node.inputs[0], _dequantizer(node)
    assert isinstance(graph, ir.Graph)
    assert value is not None
    assert dq is not None
    axis, channels = _input_channels(node)
    base = f"{value.name}/{node.name or node.outputs[0].name}"
    repeated = [
        add_initializer(graph, f"{base}/{name}", np.repeat(array, channels))
        for name, given in (("scale", dq.inputs[1]), ("zero_point", dq.inputs[2]))
        if (array := as_array(given)) is not None
    ]
    own = make_node(
        graph,
        "DequantizeLinear",
        [dq.inputs[0], *repeated],
        {f"{base}/dequantized": (ir.DataType.FLOAT, value.shape)},
        attributes={"axis": axis},
        base=base,
    )
    graph.insert_before(node, own)
    node.replace_input_with(0, own.outputs[0])


def _dequantizer(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _input_channels(node: ir.Node) -> tuple[int, int]:
    """Return the axis and the number of the channels of input 0."""
    weights = as_array(node.inputs[1])
    assert weights is not None

    def number(name: str, default: int) -> int:
        attribute = node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    if node.op_type == "Conv":
        return 1, weights.shape[1] * number("group", 1)
    if node.op_type == "ConvTranspose":
        return 1, weights.shape[0]
    return 1 - number("transA", 0), weights.shape[number("transB", 0)]
