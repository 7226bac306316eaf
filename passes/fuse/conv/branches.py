# SPDX-License-Identifier: Apache-2.0
"""Branches of one input that are added become one convolution: structural re-parameterization.

    W1 * x + b1 + W2 * x + b2 = (W1 + W2) * x + (b1 + b2)

A smaller kernel is laid over a larger one where both see the same place; BatchNormalization, a
factor of each channel and x itself are depthwise kernels of one element. Networks that are trained
with such branches (RepVGG: Ding et al., 2021; MobileOne: Vasu et al., 2022) are exported with them
where nobody merged them before. It is done where the sum takes no more arithmetic than its parts:
not for 1x3 and 3x1, whose sum is 3x3, nor for a depthwise 3x3 beside a pointwise kernel.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.fuse.conv.kernels import kernel_of_affine, kernel_of_conv
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _convolution(op: Any, x: Any) -> Any:
    return op.Conv(x, _more=True, _bind="first")


def _branch(op: Any, x: Any, c: Any) -> Any:
    """Pattern of a linear function of x, bound as `second` unless it is x itself."""
    made = op.one_of("Conv", "BatchNormalization")(x, _more=True, _bind="second")
    return op.either(made, op.either(op.Mul(x, c, _bind="second"), x))


@rule(opset=(7, None))
def merge_branches(op: Any, x: Any, c: Any = const()) -> Any:
    """Merge Conv(x) + Conv(x), Conv(x) + BatchNormalization(x) and Conv(x) + x into one Conv."""
    return op.Add(_convolution(op, x), _branch(op, x, c))


@merge_branches.also
def _(op: Any, x: Any, y: Any, c: Any = const()) -> Any:
    return op.Add(op.Add(y, _convolution(op, x)), _branch(op, x, c))


@merge_branches.also
def _(op: Any, x: Any, y: Any, c: Any = const()) -> Any:
    return op.Add(op.Add(y, _branch(op, x, c)), _convolution(op, x))


@merge_branches.rewrite
def _(
    op: Builder, x: Operand, y: Operand | None, first: ir.Node, second: ir.Node | None
) -> Replacement:
    one = kernel_of_conv(op, first)
    if not one:
        return one
    if second is not None and second.op_type == "Conv":
        other = kernel_of_conv(op, second)
    else:
        other = kernel_of_affine(op, second, x, one)
    if not other:
        return other
    grid = one.joined(other)
    if not grid:
        return grid
    assert first.inputs[1] is not None
    assert first.inputs[1].dtype is not None
    dtype = first.inputs[1].dtype.numpy()
    weights = rounded(one.on(grid) + other.on(grid), dtype)
    bias = rounded(one.bias + other.bias, dtype)
    if isinstance(weights, NoMatch):
        return weights
    if isinstance(bias, NoMatch):
        return bias
    merged = op.like(
        first,
        x,
        weights,
        bias if bias.any() else None,
        auto_pad=None,
        dilations=list(grid.steps),
        group=grid.groups,
        kernel_shape=list(grid.sizes),
        pads=[*(-low for low in grid.lows), *grid.pads_after],
    )
    return merged if y is None else op.Add(y, merged)
