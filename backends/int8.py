# SPDX-License-Identifier: Apache-2.0
"""In which form a runtime takes int8: which Q/DQ pairs it turns into integer kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Int8Form:
    """What `quant` writes for a target.

    Attributes:
        symmetric: Activations are int8 with zero point 0; otherwise uint8, asymmetric.
        results: An operator between integers has its result rounded, too. Otherwise pairs stand
            only before operators, and what follows one (its activation, a sum) is computed in
            float within the same kernel.
        bias: Biases are int32, in units of the products; otherwise they stay float.
        dynamic: Products with ranges that are found as they run (DynamicQuantizeLinear and
            MatMulInteger).
        tables: Rows may be gathered from an int8 table.
        least_scale: Scales are no smaller.
    """

    symmetric: bool
    results: bool
    bias: bool
    dynamic: bool
    tables: bool
    least_scale: float = 0.0


ONNX_RUNTIME = Int8Form(symmetric=False, results=True, bias=True, dynamic=True, tables=True)
"""Kernels that take uint8 activations and give uint8 results: ONNX Runtime's CPU provider."""

TENSORRT = Int8Form(
    symmetric=True, results=False, bias=False, dynamic=False, tables=False, least_scale=2.0**-17
)
"""Explicit quantization of TensorRT: NVIDIA, "Working with Quantized Types", sections "Explicit
Quantization" and "Q/DQ Placement Recommendations". The parser refuses zero points other than 0 and
DequantizeLinear of int32; int8 constants may only go into DequantizeLinear. Around float16
operators a scale is float16, which holds numbers from 2**-17 on to 8 bits: half a step of int8."""
