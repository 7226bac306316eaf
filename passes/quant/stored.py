# SPDX-License-Identifier: Apache-2.0
"""Int8 in the file, float when it runs: weights of operators that are no faster as int8.

A squeeze-and-excitation gate computes one pixel with as many weights as a layer has; as int8 it is
no faster, but in the file it is four times as large. What is written for its weights,
`Mul(Cast(int8), scale)`, depends on no input, so that the runtime computes it once, when it loads
the model.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.quant.insert import add_initializer, drop_unused, make_node
from burnish.passes.quant.scheme import weight_params
from burnish.passes.quant.weighted import excluded

RULE = "store-int8"

_LEAST = 1 << 10
"""Numbers in weights worth two more nodes."""


def is_storable(node: ir.Node, ops: Collection[str], exclude: tuple[str, ...]) -> bool:
    """Whether a float operator has weights that the file may hold as int8."""
    convolves = node.op_type in ("Conv", "ConvTranspose") and "Conv" in ops
    if node.domain != "" or not convolves or excluded(node, exclude) or len(node.inputs) < 2:
        return False
    weights = as_array(node.inputs[1])
    return (
        weights is not None
        and weights.dtype == np.float32
        and weights.size >= _LEAST
        and bool(np.isfinite(weights).all())
    )


def store(node: ir.Node) -> None:
    """Replace the weights of an operator by `Mul(Cast(int8), scale)`, with a scale a channel."""
    graph, old = node.graph, node.inputs[1]
    assert isinstance(graph, ir.Graph)
    assert old is not None
    weights = as_array(old)
    assert weights is not None
    axis = 1 if node.op_type == "ConvTranspose" else 0
    scheme = weight_params(weights, axis)
    column = scheme.scale.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    base, shape = old.name or node.op_type, ir.Shape(weights.shape)
    cast = make_node(
        graph,
        "Cast",
        [add_initializer(graph, f"{base}_stored", scheme.quantize(weights))],
        {f"{base}_cast": (ir.DataType.FLOAT, shape)},
        attributes={"to": int(ir.DataType.FLOAT)},
        base=base,
    )
    scaled = make_node(
        graph,
        "Mul",
        [cast.outputs[0], add_initializer(graph, f"{base}_stored_scale", column)],
        {f"{base}_scaled": (ir.DataType.FLOAT, shape)},
        base=base,
    )
    graph.insert_before(node, [cast, scaled])
    node.replace_input_with(1, scaled.outputs[0])
    drop_unused([old])
