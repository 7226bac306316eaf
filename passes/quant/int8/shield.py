# SPDX-License-Identifier: Apache-2.0
"""Keeps float operators float that stand between quantized ones.

ONNX Runtime (1.31, `WeightBiasQuantization`) quantizes the float weights of a Conv, ConvTranspose
or Gemm by itself, with a single scale for all channels, if its input is dequantized with one scale
and its output is quantized. An operator left float on purpose would lose more than it could by
int8. It is not touched if its input is dequantized channel by channel; so it gets such a
DequantizeLinear of its own, with the one scale repeated: the same numbers at the same speed.

It also moves the rounding behind a float MaxPool before it (`QDQPropagation`), which takes the pool
out of the blocked layout: 33 us in place of 3 for 32 channels of 28x28. A QuantizeLinear with one
scale for each channel stays where it is. A convolution to 32 channels of 28x28, in float, and the
pool: 1.96 times as fast, with all that follows as int8, in a classifier of digits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.quant.insert import add_initializer, make_node
from burnish.passes.quant.int8.placement import result_of

RULE = "keep-float"

_TOUCHED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def is_exposed(node: ir.Node) -> bool:
    """Whether the runtime would quantize a float operator by itself."""
    if node.domain == "" and node.op_type == "MaxPool":
        return _dequantizer(node) is None and _rounding(node) is not None
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
    """Let an exposed operator take its input, or give its result, with a scale for each channel."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    if node.op_type == "MaxPool":
        _shield_result(graph, node)
    else:
        _shield_input(graph, node)


def _shield_input(graph: ir.Graph, node: ir.Node) -> None:
    value, dq = node.inputs[0], _dequantizer(node)
    assert value is not None
    assert dq is not None
    axis, channels = _input_channels(node)
    base = f"{value.name}/{node.name or node.outputs[0].name}"
    repeated = _repeated(graph, dq, channels, base)
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


def _shield_result(graph: ir.Graph, node: ir.Node) -> None:
    q, result = _rounding(node), node.outputs[0]
    assert q is not None
    assert result.shape is not None
    channels = result.shape[1]
    assert isinstance(channels, int)
    for index, value in enumerate(_repeated(graph, q, channels, f"{result.name}/channels")):
        q.replace_input_with(index + 1, value)
    q.attributes["axis"] = ir.AttrInt64("axis", 1)


def _repeated(graph: ir.Graph, rounding: ir.Node, channels: int, base: str) -> list[ir.Value]:
    """Return the scale and zero point of Q or DQ as initializers, once for each channel."""
    pairs = zip(("scale", "zero_point"), rounding.inputs[1:3], strict=False)
    return [
        add_initializer(graph, f"{base}/{name}", np.repeat(array, channels))
        for name, given in pairs
        if (array := as_array(given)) is not None
    ]


def _rounding(node: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear that is the only user of a map, if it has one scale."""
    result = node.outputs[0]
    users = result.consumers()
    if len(users) != 1 or users[0].op_type != "QuantizeLinear" or result.is_graph_output():
        return None
    scale, shape = as_array(users[0].inputs[1]), result.shape
    known = shape is not None and len(shape) > 1 and isinstance(shape[1], int)
    return users[0] if known and scale is not None and scale.ndim == 0 else None


def _dequantizer(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _input_channels(node: ir.Node) -> tuple[int, int]:
    """Return the axis and the number of the channels of input 0."""
    weights = as_array(node.inputs[1])
    assert weights is not None
    number = node.attributes.get_int
    if node.op_type == "Conv":
        return 1, weights.shape[1] * number("group", 1)
    if node.op_type == "ConvTranspose":
        return 1, weights.shape[0]
    return 1 - number("transA", 0), weights.shape[number("transB", 0)]
