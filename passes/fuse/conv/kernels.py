# SPDX-License-Identifier: Apache-2.0
"""Kernels of convolutions: where on the input they look, and two of them laid over one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.edit import use_count
from burnish.passes.fuse.channels import IDENTITY, Affine, Channels, affine_of
from burnish.passes.fuse.linear.shared import COPIED_BYTES
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.rule import Builder, NoMatch, Operand


@dataclass(frozen=True)
class Grid:
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
class Kernel(Grid):
    """A convolution; `weights` float64 [outputs, inputs / groups, *sizes], `bias` [outputs]."""

    weights: np.ndarray
    bias: np.ndarray

    def joined(self, other: Kernel) -> Grid | NoMatch:
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
        grid = Grid(
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

    def on(self, grid: Grid) -> np.ndarray:
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


def kernel_of_conv(op: Builder, conv: ir.Node) -> Kernel | NoMatch:
    """Read a convolution with constant weights; say why that cannot be done."""
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
    return Kernel(
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


def kernel_of_affine(
    op: Builder, node: ir.Node | None, x: Operand, beside: Kernel
) -> Kernel | NoMatch:
    """Return BatchNormalization, a constant factor, or without a node x itself, as a kernel."""
    size, spatial = beside.inputs, len(beside.sizes)
    channels = Channels(size, spatial + 1, spatial + 2)
    read: Affine | NoMatch = IDENTITY if node is None else affine_of(op, node, x.value, channels)
    if isinstance(read, NoMatch):
        return read
    ones, zeros = (1,) * spatial, (0,) * spatial
    return Kernel(
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
