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

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.edit import use_count
from burnish.passes.fuse.channels import IDENTITY, Affine, Channels, affine_of
from burnish.passes.fuse.linear import COPIED_BYTES
from burnish.passes.fuse.rescale import FLOATS, rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _convolution(op: Any, x: Any, bind: str) -> Any:
    return op.Conv(x, _more=True, _bind=bind)


def _branch(op: Any, x: Any, c: Any) -> Any:
    """Pattern of a linear function of x, bound as `second` unless it is x itself."""
    made = op.one_of("Conv", "BatchNormalization")(x, _more=True, _bind="second")
    return op.either(made, op.either(op.Mul(x, c, _bind="second"), x))


@rule(opset=(7, None))
def merge_branches(op: Any, x: Any, c: Any = const()) -> Any:
    """Merge Conv(x) + Conv(x), Conv(x) + BatchNormalization(x) and Conv(x) + x into one Conv."""
    return op.Add(_convolution(op, x, "first"), _branch(op, x, c))


@merge_branches.also
def _(op: Any, x: Any, y: Any, c: Any = const()) -> Any:
    return op.Add(op.Add(y, _convolution(op, x, "first")), _branch(op, x, c))


@merge_branches.also
def _(op: Any, x: Any, y: Any, c: Any = const()) -> Any:
    return op.Add(op.Add(y, _branch(op, x, c)), _convolution(op, x, "first"))


@merge_branches.rewrite
def _(
    op: Builder, x: Operand, y: Operand | None, first: ir.Node, second: ir.Node | None
) -> Replacement:
    one = _of_conv(op, first)
    if not one:
        return one
    if second is not None and second.op_type == "Conv":
        other = _of_conv(op, second)
    else:
        other = _of_affine(op, second, x, one)
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


@dataclass(frozen=True)
class _Grid:
    """Where a kernel looks, relative to `strides` times the position in the output.

    Attributes:
        outputs: Channels of the output.
        inputs: Channels of the input.
        groups: Groups of channels.
        strides: Of the convolution; this and the following have one number a spatial axis.
        lows: Place of the first element of the kernel.
        steps: Distance between its elements.
        sizes: Their number.
        ends: How far the input is padded behind the last element at position 0; with the strides
            it decides the size of the output.
    """

    outputs: int
    inputs: int
    groups: int
    strides: tuple[int, ...]
    lows: tuple[int, ...]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def highs(self) -> list[int]:
        """Place of the last element of the kernel."""
        spans = zip(self.lows, self.steps, self.sizes, strict=True)
        return [low + step * (size - 1) for low, step, size in spans]

    @property
    def pads_after(self) -> list[int]:
        """Padding behind the input."""
        return [end + high for end, high in zip(self.ends, self.highs, strict=True)]

    @property
    def arithmetic(self) -> int:
        """Multiplications for each position of the output."""
        return self.outputs * (self.inputs // self.groups) * math.prod(self.sizes)


@dataclass(frozen=True)
class _Kernel(_Grid):
    """A convolution; `weights` float64 [outputs, inputs / groups, *sizes], `bias` [outputs]."""

    weights: np.ndarray
    bias: np.ndarray

    def joined(self, other: _Kernel) -> _Grid | NoMatch:
        """Return the smallest grid that has the elements of both."""
        if (self.outputs, self.inputs) != (other.outputs, other.inputs):
            return NoMatch("the branches have different channels")
        if (self.strides, self.ends) != (other.strides, other.ends):
            return NoMatch("the branches have different strides, or another padding")
        lows, steps, sizes = [], [], []
        for axis, pair in enumerate(zip(self.lows, other.lows, strict=True)):
            low = min(pair)
            apart = [kernel.steps[axis] for kernel in (self, other) if kernel.sizes[axis] > 1]
            step = math.gcd(pair[0] - pair[1], *apart) or 1
            lows.append(low)
            steps.append(step)
            sizes.append((max(self.highs[axis], other.highs[axis]) - low) // step + 1)
        grid = _Grid(
            self.outputs,
            self.inputs,
            math.gcd(self.groups, other.groups),
            self.strides,
            tuple(lows),
            tuple(steps),
            tuple(sizes),
            self.ends,
        )
        if grid.arithmetic > self.arithmetic + other.arithmetic:
            return NoMatch("merged, they would take more arithmetic")
        return grid

    def on(self, grid: _Grid) -> np.ndarray:
        """Return the weights with zeros where only the grid has elements."""
        made = np.zeros((self.outputs, self.inputs // grid.groups, *grid.sizes))
        places = tuple(
            slice((low - first) // step, (high - first) // step + 1, max(1, own // step))
            for low, high, own, first, step in zip(
                self.lows, self.highs, self.steps, grid.lows, grid.steps, strict=True
            )
        )
        members, size = self.outputs // self.groups, self.inputs // self.groups
        for group in range(self.groups):
            rows = slice(group * members, (group + 1) * members)
            at = group % (self.groups // grid.groups) * size
            made[(rows, slice(at, at + size), *places)] = self.weights[rows]
        return made


def _of_conv(op: Builder, conv: ir.Node) -> _Kernel | NoMatch:
    given = conv.inputs[1]
    weights = as_array(given)
    if given is None or weights is None or given.dtype not in FLOATS:
        return NoMatch("the weights are not constant, or integers")
    if use_count(given) > 1 and weights.nbytes > COPIED_BYTES:
        return NoMatch("the weights are used by other nodes too")
    outputs, members, *sizes = weights.shape
    bias = as_array(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(outputs)
    if bias is None:
        return NoMatch("a bias is not constant")
    ones = [1] * len(sizes)
    strides, steps = (op.attribute(conv, name) or ones for name in ("strides", "dilations"))
    spans = [step * (size - 1) for step, size in zip(steps, sizes, strict=True)]
    mode = op.attribute(conv, "auto_pad") or "NOTSET"
    before = after = [0] * len(sizes)
    if mode == "NOTSET":
        pads = op.attribute(conv, "pads") or before + after
        before, after = pads[: len(sizes)], pads[len(sizes) :]
    elif mode != "VALID":
        if any(stride != 1 for stride in strides):
            return NoMatch("the padding depends on the size of the input")
        before = [(span + (mode == "SAME_LOWER")) // 2 for span in spans]
        after = [span - start for span, start in zip(spans, before, strict=True)]
    groups = op.attribute(conv, "group")
    return _Kernel(
        outputs=outputs,
        inputs=members * groups,
        groups=groups,
        strides=tuple(strides),
        lows=tuple(-start for start in before),
        steps=tuple(steps),
        sizes=tuple(sizes),
        ends=tuple(a + b - span for a, b, span in zip(after, before, spans, strict=True)),
        weights=weights.astype(np.float64),
        bias=bias.astype(np.float64),
    )


def _of_affine(op: Builder, node: ir.Node | None, x: Operand, beside: _Kernel) -> _Kernel | NoMatch:
    """Return BatchNormalization, a constant factor, or without a node x itself, as a kernel."""
    size, spatial = beside.inputs, len(beside.sizes)
    channels = Channels(size, spatial + 1, spatial + 2)
    read: Affine | NoMatch = IDENTITY if node is None else affine_of(op, node, x.value, channels)
    if isinstance(read, NoMatch):
        return read
    ones, zeros = (1,) * spatial, (0,) * spatial
    return _Kernel(
        outputs=size,
        inputs=size,
        groups=size,
        strides=ones,
        lows=zeros,
        steps=ones,
        sizes=ones,
        ends=zeros,
        weights=np.broadcast_to(read.scale, size).reshape(size, 1, *ones),
        bias=np.broadcast_to(read.shift, size),
    )
