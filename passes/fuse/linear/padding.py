# SPDX-License-Identifier: Apache-2.0
"""Whether a linear operator computes the same everywhere, at the edges too."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.rule import Operand


def reaches_all_alike(node: ir.Node) -> bool:
    """Whether every output position sees as many input positions: there is no padding."""
    if node.op_type in ("Gemm", "MatMul"):
        return True
    assert node.inputs[1] is not None
    kernel = Operand(node.inputs[1]).static_dims
    pointwise = kernel is not None and all(size == 1 for size in kernel[2:])

    def all_are(name: str, number: int) -> bool:
        return all(item == number for item in node.attributes.get_ints(name, ()))

    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if node.op_type == "ConvTranspose":
        plain = mode in ("NOTSET", "VALID") and "output_shape" not in node.attributes
        unpadded = all_are("pads", 0) and all_are("output_padding", 0)
        return plain and unpadded and pointwise and all_are("strides", 1)
    if mode == "NOTSET":
        return all_are("pads", 0)
    return mode == "VALID" or pointwise
