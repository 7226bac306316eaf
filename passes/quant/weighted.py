# SPDX-License-Identifier: Apache-2.0
"""Operators with constant weights: which are they, and where are their output channels?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant
from burnish.passes.quant.int8.logarithm import REASON, is_under_logarithm

WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Operators with weights that can be quantized; rules are called `quant-conv` and so on."""

KEEP = "burnish.keep_float"
"""In a node's `meta`: why it stays float, by a decision of this run."""

SLOWER = "int8 is measured slower on this machine"
"""One of those reasons; of the others, none allows the weights to be rounded."""


@dataclass(frozen=True)
class Weights:
    """Constant weights, and perhaps a bias, of an operator.

    Attributes:
        array: float32; may be a read-only view of a file.
        axis: Of the output channels.
        bias: float32 [channels], or None if there is none.
    """

    array: np.ndarray
    axis: int
    bias: np.ndarray | None

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return int(self.array.shape[self.axis])


def rule_of(node: ir.Node) -> str:
    """Return the name of the rewrite that quantizes a node."""
    return f"quant-{node.op_type.lower()}"


def weights_of(node: ir.Node) -> Weights | str | None:
    """Return the weights of a Conv, MatMul or Gemm, the reason to leave it, or None.

    None is for a product of two activations, which has no weights to begin with. alpha and beta of
    a Gemm are multiplied in.
    """
    if not any(is_constant(value) for value in node.inputs[:2]):
        return None if node.op_type == "MatMul" else "its weights are not constant"
    if is_constant(node.inputs[0]) and is_constant(node.inputs[1]):
        return "its input is constant: it can be folded"
    array = as_array(node.inputs[1])
    if array is None:
        return "its weights are the left operand"
    if array.dtype != np.float32:
        return f"its weights are {array.dtype.name}, not float32"
    if node.op_type == "MatMul":
        if array.ndim != 2:
            return f"its weights have rank {array.ndim}, not 2"
        return _finite(Weights(array, 1, None))
    bias: np.ndarray | None = None
    axis = 0
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0):
            return "its input is transposed (transA)"
        axis = 0 if node.attributes.get_int("transB", 0) else 1
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = as_array(node.inputs[2])
        if bias is None:
            return "its bias is not constant"
        if bias.size != array.shape[axis] or bias.shape[-1:] != (bias.size,):
            return "its bias is not one number a channel"
        bias = bias.reshape(-1)
    if node.op_type == "Gemm":
        alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
        array = array if alpha == 1 else array * np.float32(alpha)
        bias = bias if bias is None or beta == 1 else bias * np.float32(beta)
    return _finite(Weights(array, axis, bias))


def excluded(node: ir.Node, patterns: tuple[str, ...]) -> bool:
    """Whether the name of a node, or of one of its outputs, matches a glob pattern."""
    names = [node.name, *(value.name for value in node.outputs)]
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names if name)


def kept_float(node: ir.Node, patterns: tuple[str, ...]) -> str | None:
    """Return why a node stays float whatever could be made of it, or None."""
    if excluded(node, patterns):
        return "excluded by name"
    reason: str | None = node.meta.get(KEEP)
    if reason is None and node.op_type in WEIGHTED and is_under_logarithm(node):
        reason = node.meta[KEEP] = REASON  # for those, too, who only store weights as integers
    return reason


def in_functions(model: ir.Model, ops: Collection[str]) -> Iterator[ir.Node]:
    """Yield nodes inside the bodies of functions, which can hold no integer weights."""
    for function in model.functions.values():
        for node in function.all_nodes():
            if node.op_type in ops and node.domain == "":
                yield node


def refuse_elsewhere(
    model: ir.Model, ops: Collection[str], refuse: Callable[[str, ir.Node, str], None]
) -> None:
    """Tell `refuse` of operators of `ops` in subgraphs and functions: calibration sees neither."""
    for graph in model.graph.subgraphs():
        for node in graph:
            if node.domain == "" and node.op_type in ops:
                refuse(rule_of(node), node, "inside a subgraph, where it cannot be observed")
    for node in in_functions(model, ops):
        refuse(rule_of(node), node, "inside a function of the model")


def _finite(weights: Weights) -> Weights | str:
    if not np.isfinite(weights.array).all():
        return "its weights are not finite"
    if weights.bias is not None and not np.isfinite(weights.bias).all():
        return "its bias is not finite"
    return weights
