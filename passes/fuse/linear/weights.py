# SPDX-License-Identifier: Apache-2.0
"""Which axes of the weights of a linear operator are its input and output channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators `linear_of` reads."""


def output_axis(node: ir.Node) -> int:
    """Return the axis of the weights that lists output channels."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm" if node.attributes.get_int("transB", 0):
            return 0
    return -1


def input_axis(node: ir.Node) -> int:
    """Return the axis of the weights that lists input channels, of one group those of a Conv."""
    match node.op_type:
        case "Conv":
            return 1
        case "ConvTranspose":
            return 0
        case "Gemm" if node.attributes.get_int("transB", 0):
            return 1
    return -2


def input_factor(
    node: ir.Node, dims: tuple[int, ...], groups: int, vector: np.ndarray
) -> np.ndarray:
    """Shape a factor of each input channel so that it broadcasts to weights of shape `dims`."""
    grouped = groups if node.op_type == "Conv" else 1
    return _factor(vector, dims, input_axis(node), grouped)


def output_factor(
    node: ir.Node, dims: tuple[int, ...], groups: int, vector: np.ndarray
) -> np.ndarray:
    """Shape a factor of each output channel so that it broadcasts to weights of shape `dims`."""
    grouped = groups if node.op_type == "ConvTranspose" else 1
    return _factor(vector, dims, output_axis(node), grouped)


def _factor(vector: np.ndarray, dims: tuple[int, ...], axis: int, groups: int) -> np.ndarray:
    shape = [1] * len(dims)
    if vector.size == 1:
        return vector.reshape(shape)
    shape[axis] = -1
    if groups == 1:
        return vector.reshape(shape)
    # The weights list the channels of one group along `axis`; which group, axis 0 tells.
    shape[0] = dims[0]
    return np.repeat(vector.reshape(groups, -1), dims[0] // groups, axis=0).reshape(shape)
