# SPDX-License-Identifier: Apache-2.0
"""Linear operators with constant weights, and affine functions folded into them.

Conv, ConvTranspose, Gemm and MatMul compute W x + b. An affine function of each channel, a z + c,
before or after one goes into its weights and bias:

    a (W x + b) + c = (a W) x + (a b + c)
    W (a x + c) + b = (W a) x + (b + W c)

What is folded is computed in float64 and rounded once; it is refused where the rounding would lose
what the separate operators keep (overflow, underflow).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import tensor_of
from burnish.passes.fuse.channels import IDENTITY, Affine, Channels
from burnish.passes.fuse.linear.padding import reaches_all_alike
from burnish.passes.fuse.linear.shared import may_scale
from burnish.passes.fuse.linear.weights import input_axis, input_factor, output_axis, output_factor
from burnish.passes.fuse.rescale import FLOATS, blocks, rescaled, rounded
from burnish.passes.rule import Builder, NoMatch, Operand


@dataclass(frozen=True)
class Linear:
    """A linear operator.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        weights: Its weights; perhaps not constant.
        bias: Its bias, or the constant that an Add puts on a MatMul; None if there is none.
        groups: Number of groups of channels.
        inputs: Channels of its input.
        outputs: Channels of its output.
        alpha: What multiplies the weights.
        beta: What multiplies the bias.
    """

    node: ir.Node
    weights: Operand
    bias: Operand | None
    groups: int
    inputs: Channels
    outputs: Channels
    alpha: float = 1.0
    beta: float = 1.0

    def fold(
        self,
        op: Builder,
        x: Operand | ir.Value,
        *,
        before: Affine = IDENTITY,
        after: Affine = IDENTITY,
    ) -> ir.Value | NoMatch:
        """Build after(linear(before(x)))."""
        dtype = self.weights.dtype
        if dtype not in FLOATS:
            return NoMatch("integers are not folded")
        weights: Operand | ir.TensorProtocol | NoMatch = self.weights
        if before.scales or after.scales:
            weights = self._scaled(before.scale, after.scale)
        if isinstance(weights, NoMatch):
            return weights
        bias: Operand | np.ndarray | NoMatch | None = self.bias
        changed = {}
        if before.shifts or after.shifts or (after.scales and self.bias is not None):
            bias = self._bias(before, after, dtype.numpy())
            changed = {} if self.beta == 1 else {"beta": None}
        if isinstance(bias, NoMatch):
            return bias
        if self.node.op_type == "MatMul":
            product: ir.Value = op.like(self.node, x, weights)
            return product if bias is None else op.Add(product, bias)
        folded: ir.Value = op.like(self.node, x, weights, bias, **changed)
        return folded

    def _bias(self, before: Affine, after: Affine, dtype: np.dtype) -> np.ndarray | NoMatch:
        """Return after.scale * (bias + W before.shift) + after.shift, [outputs]."""
        bias = np.zeros(())
        if self.bias is not None:
            array = self.bias.array
            if array is None:
                return NoMatch("the bias is not constant")
            convolution = self.node.op_type in ("Conv", "ConvTranspose")
            vector = array.astype(np.float64) if convolution else self.outputs.vector(array)
            if vector is None:
                return NoMatch("the bias differs along more than the channels")
            bias = self.beta * vector
        if before.shifts:
            if self.node.op_type == "MatMul" and self.bias is None:
                return NoMatch("a MatMul has no bias to take the shift")
            if not reaches_all_alike(self.node):
                return NoMatch("the shift does not reach the padding")
            response = self._response(before.shift)
            if isinstance(response, NoMatch):
                return response
            bias = bias + response
        with np.errstate(all="ignore"):
            exact = after.scale * bias + after.shift
        return rounded(np.broadcast_to(exact, self.outputs.size), dtype)

    def _response(self, constant: np.ndarray) -> np.ndarray | NoMatch:
        """Return the output for an input that is `constant` in each channel; float64 [outputs]."""
        array = self.weights.array
        if array is None:
            return NoMatch("the weights are not constant")
        if self.node.op_type == "MatMul" and array.ndim > 2:
            return NoMatch("the weights differ along a batch")
        vector = np.broadcast_to(constant, self.inputs.size)
        factor = input_factor(self.node, array.shape, self.groups, vector)
        axis = output_axis(self.node) % array.ndim
        kernel = tuple(range(2, array.ndim))
        total = np.zeros(self.outputs.size)
        # For each row of the weights, sums over what is not an output channel.
        for part, scaled in blocks(array, factor):
            rows = scaled.sum(axis=kernel)
            if axis == 0:
                total[part] = rows.sum(axis=1)
            elif self.groups == 1:
                total += rows.sum(axis=0)
            else:
                members = self.inputs.size // self.groups
                group = np.arange(len(array))[part] // members
                np.add.at(total.reshape(self.groups, -1), group, rows)
        return self.alpha * total

    def _scaled(self, before: np.ndarray, after: np.ndarray) -> ir.TensorProtocol | NoMatch:
        """Return the weights with input and output channels scaled."""
        array = self.weights.array
        if array is None:
            return NoMatch("the weights are not constant")
        if not may_scale(self.weights.value, array.nbytes):
            return NoMatch("the weights are used by other nodes too")
        where = (self.node, array.shape, self.groups)
        factor = input_factor(*where, before) * output_factor(*where, after)
        mapped = isinstance(tensor_of(self.weights.value), ir.ExternalTensor)
        return rescaled(array, factor, (input_axis(self.node), output_axis(self.node)), lazy=mapped)


def linear_of(op: Builder, node: ir.Node, added: Operand | None = None) -> Linear | NoMatch:
    """Read a linear operator.

    Args:
        op: Of the rewrite.
        node: Conv, ConvTranspose, Gemm or MatMul.
        added: What an Add puts on a MatMul.
    """
    weights = node.inputs[1]
    assert weights is not None
    assert node.inputs[0] is not None
    x, w = Operand(node.inputs[0]), Operand(weights)
    third = node.inputs[2] if len(node.inputs) > 2 else None
    bias = added if third is None else Operand(third)
    dims = w.static_dims
    if dims is None or len(dims) < 2:
        return NoMatch("the shape of the weights is unknown")
    if node.op_type == "Gemm":
        rows, columns = dims[::-1] if op.attribute(node, "transB") else dims
        in_axis = 2 if op.attribute(node, "transA") else 1
        alpha, beta = op.attribute(node, "alpha"), op.attribute(node, "beta")
        into, out = Channels(rows, in_axis, 2), Channels(columns, 1, 2)
        return Linear(node, w, bias, 1, into, out, alpha, beta)
    if node.op_type == "MatMul":
        rank = x.rank or 1
        out_rank = max(rank, len(dims)) if rank > 1 else 1
        into, out = Channels(dims[-2], 1, rank), Channels(dims[-1], 1, out_rank)
        return Linear(node, w, bias, 1, into, out)
    groups = op.attribute(node, "group")
    rank = len(dims)
    alone, grouped = Channels(dims[0], rank - 1, rank), Channels(dims[1] * groups, rank - 1, rank)
    into, out = (grouped, alone) if node.op_type == "Conv" else (alone, grouped)
    return Linear(node, w, bias, groups, into, out)
