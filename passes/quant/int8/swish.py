# SPDX-License-Identifier: Apache-2.0
"""HardSwish on integers, and a shift that costs nothing: both by choosing scales that fit.

HardSwish(x) = x * min(max(x + 3, 0), 6) / 6. Let x be uint8 with its scale a whole part of 3,
s = 3 / k, and its zero point k. Its least integer then is -3, at and below which the result is 0;
and the second factor is the same integers, bounded by 2 k, under another scale:

    min(max(x + 3, 0), 6) / 6 = min(q, 2 k) * s / 6

So a Clip of bytes and an integer product compute it, with no rounding but that of the result.
ONNX Runtime has neither an int8 kernel for HardSwish nor one that looks up a table of one's own:
in float it takes five passes over four times the bytes.

A x + b with numbers that are the same for all channels is only another reading of the same
integers: scale A s, and a zero point that lies b / (A s) lower.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.quant.calibration.observers import Range
from burnish.passes.quant.insert import add_initializer, make_node
from burnish.passes.quant.scheme import QuantParams, Scheme

_BEND = 3.0
"""Where HardSwish becomes 0, and the identity."""
_LEAST_STEPS = 2
"""Steps from 0 to the bend, at least: of a range up to 379."""
_SNAPPED = 8
"""A shift of so many steps is made a whole number of them; a shorter one is rounded to one."""


def fits(scheme: Scheme) -> bool:
    """Whether integers of a scheme can be read in two ways: unsigned, with any scale and zero."""
    return scheme.dtype == "uint8" and not scheme.symmetric and not scheme.power_of_two


def hard_swish_params(values: Range) -> QuantParams | None:
    """Parameters of what a HardSwish takes, from its range; None if that is too wide."""
    high = max(values.high, 0.0)
    steps = int(_BEND * 255 / (_BEND + high))
    if steps < _LEAST_STEPS:
        return None
    return _params(_BEND / steps, steps)


def shifted_params(values: Range, scale: float, shift: float) -> tuple[QuantParams, QuantParams]:
    """Parameters of x and of y = scale x + shift that give both the same integers.

    Args:
        values: The range of y.
        scale: Positive.
        shift: Any.
    """
    low, high = min(values.low, shift, 0.0), max(values.high, shift, 0.0)
    step = (high - low) / 255
    count = abs(shift) / step if step else 0.0
    if count >= _SNAPPED:
        step = abs(shift) / int(count)
    zero = round(-low / step) if step else 0
    other = round(zero + shift / step) if step else 0
    return _params((step or 1.0) / scale, other), _params(step or 1.0, zero)


def _params(scale: float, zero: int) -> QuantParams:
    return QuantParams(np.array(scale, np.float32), np.array(min(max(zero, 0), 255), np.uint8))


def uniform_affine(node: ir.Node) -> tuple[float, float] | None:
    """Return scale and shift of a BatchNormalization that are the same for all channels.

    None if they are not, or the scale is not positive.
    """
    if node.op_type != "BatchNormalization" or node.domain != "" or len(node.inputs) < 5:
        return None
    arrays = [as_array(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays) or node.attributes.get_int("training_mode", 0) == 1:
        return None
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    scales = gamma / np.sqrt(variance + epsilon)
    shifts = beta - mean * scales
    scale, shift = float(scales.flat[0]), float(shifts.flat[0])
    same = np.allclose(scales, scale, rtol=1e-6) and np.allclose(shifts, shift, rtol=1e-6)
    return (scale, shift) if same and scale > 0 and np.isfinite(shift) else None


def multiply(node: ir.Node, params: QuantParams) -> None:
    """Make a product of a HardSwish whose input is dequantized, in place.

    Args:
        node: The HardSwish.
        params: `hard_swish_params` of its input.
    """
    graph, value = node.graph, node.inputs[0]
    assert isinstance(graph, ir.Graph)
    dq = None if value is None else value.producer()
    assert dq is not None
    integers = dq.inputs[0]
    assert integers is not None
    base = node.name or node.outputs[0].name or node.op_type
    steps = int(params.zero_point)
    if 2 * steps < 255:
        most = add_initializer(graph, f"{base}/most", np.array(2 * steps, np.uint8))
        kind = (integers.dtype or ir.DataType.UINT8, integers.shape)
        clip = make_node(
            graph, "Clip", [integers, None, most], {f"{base}/bounded": kind}, base=base
        )
        graph.insert_before(node, clip)
        integers = clip.outputs[0]
    scale = add_initializer(graph, f"{base}/gate_scale", params.scale / np.float32(2 * _BEND))
    zero = add_initializer(graph, f"{base}/gate_zero_point", np.array(0, np.uint8))
    gate = make_node(
        graph,
        "DequantizeLinear",
        [integers, scale, zero],
        {f"{base}/gate": (ir.DataType.FLOAT, node.outputs[0].shape)},
        base=base,
    )
    graph.insert_before(node, gate)
    node.op_type = "Mul"
    node.resize_inputs(2)
    node.replace_input_with(1, gate.outputs[0])
