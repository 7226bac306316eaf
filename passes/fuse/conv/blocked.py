# SPDX-License-Identifier: Apache-2.0
"""What lies between two convolutions stays in the runtime's blocked layout.

On CPUs, ONNX Runtime runs convolutions of float32 with channels in blocks of a vector's width
(NCHWc), and puts a ReorderOutput and a ReorderInput around what it cannot run in that layout. An
addition of constants is such an operator; a BatchNormalization is not, since it becomes a depthwise
convolution. Such a shift is left over only where a convolution pads, so that it cannot be folded.
Nor is ReduceMean run in it, but GlobalAveragePool, which quantizers know as well.

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns: PP-OCRv4 det 1.05, rec 1.06. A 1x1
convolution of 64 channels and the mean: 1.14 for 1280 channels of 7x7, 1.16 for 96 of 60x60.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.backends.kernels import Support
from burnish.backends.target import Target
from burnish.passes.constant import is_constant
from burnish.passes.context import PassContext
from burnish.passes.fuse.affine.before import fold_affine_before
from burnish.passes.fuse.channels import IDENTITY, Channels, affine_of
from burnish.passes.fuse.norm.moments import axes_of
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

PREFERENCE = "BatchNormalization-shift"

ACTIVATIONS = frozenset(
    {"Clip", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
)
"""What the runtime takes into the convolution before it, or runs in its layout."""

POOLS = frozenset({"AveragePool", "MaxPool"})
"""Poolings that the runtime has in its layout."""


def has_blocked_layout(target: Target) -> bool:
    """Whether the target's runtime has convolutions in a blocked layout."""
    found = target.support("Conv", "com.microsoft.nchwc", opset=1, dtype=ir.DataType.FLOAT)
    return found is Support.KERNEL


def block_size(target: Target) -> int | None:
    """Channels in a block of the layout; None if the target has none, or none that is known."""
    if not has_blocked_layout(target):
        return None
    return 16 if "avx512" in target.isa else 8 if "sse4.1" in target.isa else None


def is_blocked_conv(node: ir.Node | None) -> bool:
    """Whether the runtime runs a node as a convolution in the blocked layout.

    As its NchwcTransformer decides: constant weights and bias, and what `fits_blocks` asks for.
    """
    if node is None or node.op_type != "Conv" or node.domain != "":
        return False
    return all(item is None or is_constant(item) for item in node.inputs[1:]) and fits_blocks(node)


def fits_blocks(node: ir.Node) -> bool:
    """Whether a convolution's weights suit the blocked layout.

    That is two spatial axes, float32, channels in multiples of four, or fewer to read than a block.
    """
    weights = node.inputs[1]
    shape = None if weights is None else weights.shape
    if weights is None or shape is None or len(shape) != 4 or weights.dtype != ir.DataType.FLOAT:
        return False
    group = node.attributes.get_int("group", 1)
    outputs, inputs = shape[0], shape[1]
    if not isinstance(outputs, int) or not isinstance(inputs, int):
        return False
    if group > 1:
        return outputs % 4 == 0 and inputs == 1 and outputs == group
    return inputs < 8 or inputs % 4 == 0


def made_in_blocks(value: ir.Value) -> bool:
    """Whether a convolution in the layout makes a value, by way of `ACTIVATIONS` and `POOLS`."""
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in ACTIVATIONS | POOLS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return is_blocked_conv(node)


def summed_in_blocks(value: ir.Value) -> bool:
    """Whether a value is made in the layout, or is the sum of such values, as in a residual net.

    They may be multiplied by a number for each channel, which is a depthwise convolution there.
    """
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.domain != "":
            return False
        if is_blocked_conv(node):
            continue
        if node.op_type not in ACTIVATIONS | POOLS | {"Add", "Mul", "Sum"}:
            return False
        terms = node.inputs if node.op_type in ("Add", "Mul", "Sum") else node.inputs[:1]
        if node.op_type == "Mul":
            terms = tuple(term for term in terms if not _is_channel_scale(term))
            if len(terms) > 1:
                return False
        new = {term for term in terms if term is not None} - seen
        if len(terms) > 1 and any(term.shape != node.outputs[0].shape for term in new):
            return False
        waiting += new
        seen |= new
    return True


def _is_channel_scale(value: ir.Value | None) -> bool:
    """Whether a value is a constant that holds a number for each channel of a map."""
    if value is None or value.shape is None or len(value.shape) not in (3, 4):
        return False
    *above, _, rows, columns = value.shape
    return is_constant(value) and {*above, rows, columns} == {1}


@rule(opset=(9, None))
def shift_between_convs(op: Any, x: Any, c: Any = const()) -> Any:
    """Write x + c between convolutions, a number for each channel, as BatchNormalization."""
    return op.one_of("Add", "Sub")(x, c, _bind="shift")


@shift_between_convs.also
def _(op: Any, x: Any, a: Any = const(), c: Any = const()) -> Any:
    scaled = op.one_of("Mul", "Div")(x, a, _bind="scale", _shared=True)
    return op.one_of("Add", "Sub")(scaled, c, _bind="shift")


@shift_between_convs.rewrite
def _(
    op: Builder, x: Operand, scale: ir.Node | None, shift: ir.Node, ctx: PassContext
) -> Replacement:
    if x.dtype != ir.DataType.FLOAT or not has_blocked_layout(ctx.target):
        return NoMatch("the target has no blocked layout for it")
    objection = ctx.target.objection_to(PREFERENCE, x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if not made_in_blocks(x.value):
        return NoMatch("what is shifted is not the result of a convolution")
    if not any(is_blocked_conv(node) for node in shift.outputs[0].consumers()):
        return NoMatch("no convolution follows")
    if x.rank != 4 or x.dims is None or not isinstance(x.dims[1], int):
        return NoMatch("the number of channels is unknown")
    channels = Channels(x.dims[1], 3, 4)
    first = IDENTITY if scale is None else affine_of(op, scale, x.value, channels)
    last = affine_of(op, shift, x.value if scale is None else scale.outputs[0], channels)
    if not first:
        return first
    if not last:
        return last
    affine, arrays = last.after(first), []
    for exact in (affine.scale, affine.shift):
        array = rounded(np.broadcast_to(exact, channels.size), np.dtype(np.float32))
        if isinstance(array, NoMatch):
            return array
        arrays.append(array)
    zeros, ones = np.zeros(channels.size, np.float32), np.ones(channels.size, np.float32)
    return op.BatchNormalization(x, *arrays, zeros, ones, epsilon=0.0)


@rule(opset=(13, None))
def mean_in_blocks(op: Any, x: Any) -> Any:
    """Write ReduceMean of all pixels behind a convolution as GlobalAveragePool."""
    return op.ReduceMean(x, _more=True, _bind="mean")


@mean_in_blocks.rewrite
def _(op: Builder, x: Operand, mean: ir.Node, ctx: PassContext) -> Replacement:
    axes = axes_of(op, mean, x.rank)
    if isinstance(axes, NoMatch):
        return axes
    if axes != (2, 3) or x.rank != 4:
        return NoMatch("it is not the mean of all pixels of each channel")
    if x.uses > 1:
        return NoMatch("the map leaves the layout for others")
    if not has_blocked_layout(ctx.target) or not summed_in_blocks(x.value):
        return NoMatch("no convolution in blocks is before it")
    return op.GlobalAveragePool(x)


@dataclass(frozen=True)
class FuseBlocked(RulePass):
    """Keep what lies between convolutions in the target's blocked layout."""

    name: ClassVar[str] = "fuse-blocked"
    # A scale that other convolutions use too can be folded into them once no shift needs it.
    rules: ClassVar[tuple[Rule, ...]] = (
        shift_between_convs,
        fold_affine_before,
        mean_in_blocks,
    )
