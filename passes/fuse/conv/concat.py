# SPDX-License-Identifier: Apache-2.0
"""A convolution of a Concat becomes a sum of convolutions, where parts do not fill whole blocks.

    W * [x1, x2] + b = (W1 * x1 + b) + W2 * x2

On CPUs, ONNX Runtime joins channels in its blocked layout only if each part fills whole blocks, of
16 or without AVX-512 of 8; otherwise it leaves the layout and comes back. It adds up within the
convolutions, so that the sum costs nothing but the part of a block that each x has too many.

Ratio on ONNX Runtime 1.31.1, AVX-512, one thread, in turns, with `fill-channels`: 1.18 for the stem
of HGNetV2 (twice 24 channels of 240x240).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.fuse.conv.blocked import block_size, is_blocked_conv, made_in_blocks
from burnish.passes.pattern import const, variadic
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

PREFERENCE = "Conv-split"

_WORTH = 60
"""Products that take as long as moving one element out of the layout, into the Concat and back:
0.5 ns were measured for these, at 120 products a nanosecond."""


@rule
def split_concat(op: Any, parts: Any = variadic(), w: Any = const()) -> Any:
    """Write Conv(Concat(parts)) as a sum of convolutions of the parts."""
    return op.Conv(op.Concat(parts, axis=1), w, _more=True, _bind="conv")


@split_concat.rewrite
def _(
    op: Builder, parts: tuple[Operand, ...], w: Operand, conv: ir.Node, ctx: PassContext
) -> Replacement:
    block = block_size(ctx.target)
    if block is None or not is_blocked_conv(conv) or op.attribute(conv, "group") != 1:
        return NoMatch("the target does not run it in blocks")
    objection = ctx.target.objection_to(PREFERENCE, w.dtype)
    if objection is not None:
        return NoMatch(objection)
    if len(parts) < 2 or not all(made_in_blocks(part.value) for part in parts):
        return NoMatch("a part is not made in blocks")
    sizes = [part.dims[1] if part.dims is not None else None for part in parts]
    assert w.static_dims is not None
    outputs, inputs, *kernel = w.static_dims
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(parts) or sum(known) != inputs:
        return NoMatch("the number of channels is unknown")
    if all(size % block == 0 for size in known):
        return NoMatch("the parts fill whole blocks")
    if use_count(w.value) > 1:
        return NoMatch("the weights are used by other nodes too")
    added = sum(_whole(size, block) for size in known) - _whole(inputs, block)
    steps = math.prod(op.attribute(conv, "strides") or (1,))
    if added * math.prod(kernel) * _whole(outputs, block) / steps > _WORTH * inputs:
        return NoMatch("computing parts of blocks would take longer than leaving them")
    assert w.array is not None
    weights = np.split(w.array, np.cumsum(known)[:-1], axis=1)
    total = op.like(conv, parts[0], weights[0], *conv.inputs[2:])
    for part, own in zip(parts[1:], weights[1:], strict=True):
        # The runtime gives the sum to the first convolution: the last one, whose x was just made.
        total = op.Add(op.like(conv, part, own), total)
    return total


def _whole(channels: int, block: int) -> int:
    """Round up to whole blocks."""
    return channels + -channels % block


@dataclass(frozen=True)
class SplitConcat(RulePass):
    """Split convolutions of a Concat whose parts do not fill whole blocks."""

    name: ClassVar[str] = "split-concat"
    rules: ClassVar[tuple[Rule, ...]] = (split_concat,)
