# SPDX-License-Identifier: Apache-2.0
"""What TensorRT's parser needs changed, by onnx-graphsurgeon. The numbers stay what they were.

- Models quantized for other runtimes have uint8 with zero point 128 in the middle, which is int8
  with zero point 0, shifted. TensorRT takes the second alone.
- They also have int32 biases with a DequantizeLinear, which it refuses: the bias becomes float32.
- ONNX Runtime's own QuantizeLinear and DequantizeLinear are the standard ones, under another
  domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MIDDLE = 128


def prepare(model: ir.Model) -> ir.Model:
    """Return a model that computes the same and suits the parser; `model` is not changed.

    It is `model` itself, untouched, if it holds nothing quantized.
    """
    from burnish.passes.report import all_graphs

    ops = {node.op_type for graph in all_graphs(model) for node in graph}
    if not ops & {_QUANTIZE, _DEQUANTIZE}:
        return model
    if not any(_needed(node) for graph in all_graphs(model) for node in graph):
        return model
    from burnish.passes.gsbridge import through_graphsurgeon

    return through_graphsurgeon(model.clone(), "tensorrt", _operate) or model


def _needed(node: ir.Node) -> bool:
    import onnx_ir as ir

    if node.op_type not in (_QUANTIZE, _DEQUANTIZE):
        return False
    stored = node.inputs[0] if node.op_type == _DEQUANTIZE else None
    quantized = stored if stored is not None else node.outputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtypes = {value.dtype for value in (quantized, zero) if value is not None}
    wide = {ir.DataType.UINT8, ir.DataType.INT32}
    return bool(node.domain or dtypes & wide or (zero is None and node.op_type == _QUANTIZE))


def _operate(graph: Any) -> Any:
    for node in graph.nodes:
        if node.op in (_QUANTIZE, _DEQUANTIZE) and node.domain == "com.microsoft":
            node.domain = ""
    _make_biases_float(graph)
    _centre(graph)
    return graph.cleanup()


def _make_biases_float(graph: Any) -> None:
    """Replace `DequantizeLinear(int32 constant)` by the numbers it gives."""
    import onnx_graphsurgeon as gs

    for node in graph.nodes:
        if node.op != _DEQUANTIZE or not all(isinstance(x, gs.Constant) for x in node.inputs):
            continue
        if node.inputs[0].dtype != np.int32:
            continue
        integers, scale = node.inputs[0].values, node.inputs[1].values
        zero = node.inputs[2].values if len(node.inputs) > 2 else np.int32(0)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[node.attrs.get("axis", 1) if integers.ndim > 1 else 0] = -1
            scale, zero = scale.reshape(shape), np.broadcast_to(zero, scale.shape).reshape(shape)
        real = ((integers - zero) * scale).astype(scale.dtype)
        held = gs.Constant(f"{node.outputs[0].name}/float", np.ascontiguousarray(real))
        for user in list(node.outputs[0].outputs):
            user.inputs = [held if x is node.outputs[0] else x for x in user.inputs]


def _centre(graph: Any) -> None:
    """Turn uint8 about 128 into int8 about 0, where all that touches a quantized tensor does so."""
    import onnx_graphsurgeon as gs

    for tensor in list(graph.tensors().values()):
        takers = list(tensor.outputs)
        makers = list(tensor.inputs)
        around = [node for node in (*takers, *makers) if node.op in (_QUANTIZE, _DEQUANTIZE)]
        if not takers or any(
            node.op != _DEQUANTIZE or node.inputs[0] is not tensor for node in takers
        ):
            continue
        constant = isinstance(tensor, gs.Constant)
        if not constant and [node.op for node in makers] != [_QUANTIZE]:
            continue
        if tensor in graph.outputs or not all(_about_middle(node) for node in around):
            continue
        if constant and tensor.dtype != np.uint8:
            continue
        if constant:
            values = (tensor.values.astype(np.int16) - _MIDDLE).astype(np.int8)
            shifted = gs.Constant(f"{tensor.name}/int8", values)
            for node in takers:
                node.inputs[0] = shifted
        else:
            tensor.dtype = np.int8
        for node in around:
            shape = node.inputs[2].values.shape
            node.inputs[2] = gs.Constant(
                f"{node.inputs[2].name}/{node.outputs[0].name}/int8", np.zeros(shape, np.int8)
            )


def _about_middle(node: Any) -> bool:
    import onnx_graphsurgeon as gs

    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if not isinstance(zero, gs.Constant) or zero.dtype != np.uint8:
        return False
    return bool((zero.values == _MIDDLE).all())
