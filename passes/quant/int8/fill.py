# SPDX-License-Identifier: Apache-2.0
"""Fills the channels of images up to four, as int8 kernels count.

ONNX Runtime's int8 products on x86 take numbers in groups of four (VNNI). Where the products of
one output, C x kh x kw, are no multiple of four, copying them into place takes as long as
computing with them: a 3 x 3 convolution of 3 channels takes 2.0 to 2.2 times as long as one of 4,
of 1 channel 1.7 times (1.31, one thread, 28 x 28 to 480 x 480). So an image gets channels of zero
points, which one small Pad writes, and the weights get zeros: the numbers stay the same.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.quant.insert import add_initializer, make_node

_GROUP = 4
"""Numbers that one instruction multiplies and adds up."""


def is_image(node: ir.Node, weights: np.ndarray) -> bool:
    """Whether a Conv with these weights `[outputs, channels, ...]` takes one to three channels."""
    dense = node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1
    return dense and weights.ndim > 2 and weights.shape[1] < _GROUP


def missing_channels(node: ir.Node, weights: np.ndarray) -> int:
    """Return how many more input channels a Conv with these weights should have.

    Images alone are filled: of four channels and more, a Pad would copy more than it saves.
    """
    filled = int(np.prod(weights.shape[1:])) % _GROUP == 0
    return 0 if filled or not is_image(node, weights) else _GROUP - weights.shape[1]


def fill_channels(node: ir.Node, weights: np.ndarray, count: int) -> np.ndarray:
    """Give the quantized input of a Conv `count` more channels; returns the weights for them.

    Args:
        node: Its input 0 is the result of a DequantizeLinear with one scale.
        weights: `[outputs, channels, ...]`.
        count: How many.
    """
    value = node.inputs[0]
    dq = None if value is None else value.producer()
    assert dq is not None
    graph, quantized = node.graph, dq.inputs[0]
    assert isinstance(graph, ir.Graph)
    assert quantized is not None
    scale, zero_point = dq.inputs[1:3]
    widths = np.zeros((2, weights.ndim), np.int64)
    widths[1, 1] = count
    base = f"{quantized.name}/filled"
    pad = make_node(
        graph,
        "Pad",
        [quantized, add_initializer(graph, f"{base}/pads", widths.reshape(-1)), zero_point],
        {base: (quantized.dtype or ir.DataType.UINT8, None)},
        base=base,
    )
    own = make_node(
        graph,
        "DequantizeLinear",
        [pad.outputs[0], scale, zero_point],
        {f"{base}/dequantized": (ir.DataType.FLOAT, None)},
        base=base,
    )
    graph.insert_before(node, [pad, own])
    node.replace_input_with(0, own.outputs[0])
    return np.pad(weights, [(0, count) if axis == 1 else (0, 0) for axis in range(weights.ndim)])
