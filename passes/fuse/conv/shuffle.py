# SPDX-License-Identifier: Apache-2.0
"""Channel shuffles become a Gather, which goes into what is beside it.

Ratios of speed against Reshape, Transpose, Reshape on ONNX Runtime 1.31.1, CPU, one thread, its own
optimizations at their default, in turns, shapes from 1x464x7x7 to 1x272x28x28: 1.37 to 1.56 alone,
1.01 to 1.03 between a grouped and a depthwise convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.fuse.groups import groups_first, restores
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

PREFERENCE = "Gather-shuffle"


@rule
def channel_shuffle(op: Any, x: Any) -> Any:
    """Fuse Reshape, Transpose, Reshape that interleave groups of channels into Gather."""
    split = op.Reshape(x, _more=True, _bind="split")
    return op.Reshape(op.Transpose(split, _bind="transpose"), _more=True, _bind="root")


@channel_shuffle.rewrite
def _(
    op: Builder,
    x: Operand,
    split: ir.Node,
    transpose: ir.Node,
    root: ir.Node,
    ctx: PassContext,
) -> Replacement:
    grouped = Operand(split.outputs[0])
    perm = op.attribute(transpose, "perm")
    if x.rank is None or grouped.rank is None or perm is None:
        return NoMatch("the rank is unknown")
    if tuple(perm) != (0, 2, 1, *range(3, grouped.rank)):
        return NoMatch("not the two axes behind the samples change places")
    sizes = groups_first(x, grouped)
    if not sizes:
        return sizes
    assert grouped.dims is not None
    if grouped.dims[2] != sizes[1] or not restores(x, root):
        return NoMatch("the channels are not known to be split and joined again")
    objection = ctx.target.objection_to(PREFERENCE, x.dtype)
    if objection is not None:
        return NoMatch(objection)
    return op.Gather(x, np.arange(sizes[0] * sizes[1]).reshape(sizes).T.reshape(-1), axis=1)


def _picked(op: Any, x: Any, order: Any) -> Any:
    return op.Gather(x, order, axis=1, _shared=True)


@rule(opset=(13, None))
def halves_of_gather(op: Any, x: Any, order: Any = const(), sizes: Any = optional()) -> Any:
    """Split(Gather(x, order)) -> two Gathers of one half each."""
    return op.Split(_picked(op, x, order), sizes, axis=1, _outputs=2)


@halves_of_gather.rewrite
def _(op: Builder, x: Operand, order: Operand, sizes: Operand | None) -> Replacement:
    assert order.array is not None
    if order.array.ndim != 1 or (sizes is not None and sizes.array is None):
        return NoMatch("the sizes are unknown")
    first = (order.array.size + 1) // 2 if sizes is None else int(_array(sizes)[0])
    return tuple(op.Gather(x, half, axis=1) for half in np.split(order.array, [first]))


@rule(opset=(10, None))
def part_of_gather(
    op: Any,
    x: Any,
    order: Any = const(),
    start: Any = const(),
    end: Any = const(),
    axes: Any = const(),
    steps: Any = optional(),
) -> Any:
    """Slice(Gather(x, order)) -> Gather(x, part of the order)."""
    return op.Slice(_picked(op, x, order), start, end, axes, steps)


@part_of_gather.rewrite
def _(
    op: Builder,
    x: Operand,
    order: Operand,
    start: Operand,
    end: Operand,
    axes: Operand,
    steps: Operand | None,
) -> Replacement:
    if _array(order).ndim != 1 or (steps is not None and steps.array is None):
        return NoMatch("the steps are unknown")
    if _array(axes).tolist() != [1]:
        return NoMatch("the slice is along other axes too")
    low, high = int(_array(start)[0]), int(_array(end)[0])
    step = 1 if steps is None else int(_array(steps)[0])
    if step < 0:
        return NoMatch("the slice goes backwards")
    return op.Gather(x, _array(order)[low:high:step], axis=1)


@rule(opset=(7, None))
def gather_into_conv(op: Any, x: Any, order: Any = const(), w: Any = const()) -> Any:
    """Conv(Gather(x, order), W) -> Conv(x, W with its input channels in the order of x)."""
    return op.Conv(_picked(op, x, order), w, _more=True, _bind="conv")


@gather_into_conv.rewrite
def _(op: Builder, x: Operand, order: Operand, w: Operand, conv: ir.Node) -> Replacement:
    permutation = _array(order)
    every = np.arange(permutation.size)
    if x.dims is None or permutation.ndim != 1 or not np.array_equal(np.sort(permutation), every):
        return NoMatch("the channels are not only put into another order")
    if x.dims[1] != permutation.size:
        return NoMatch("some of the channels are left out")
    if use_count(w.value) > 1:
        return NoMatch("the weights are used by other nodes too")
    groups, back = op.attribute(conv, "group"), np.argsort(permutation)
    if groups == 1:
        return op.like(conv, x, _array(w)[:, back], *conv.inputs[2:])
    if groups != permutation.size or len(_array(w)) != groups:
        return NoMatch("the order of channels matters to a grouped convolution")
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    shifts = None if bias is None else Operand(bias).array
    if bias is not None and shifts is None:
        return NoMatch("the bias is not constant")
    y = op.like(conv, x, _array(w)[back], None if shifts is None else shifts[back])
    return op.Gather(y, order, axis=1)


def _array(operand: Operand) -> np.ndarray:
    assert operand.array is not None
    return operand.array


@dataclass(frozen=True)
class FuseShuffle(RulePass):
    """Fuse channel shuffles into one operator, and that into convolutions."""

    name: ClassVar[str] = "fuse-shuffle"
    rules: ClassVar[tuple[Rule, ...]] = (
        channel_shuffle,
        halves_of_gather,
        part_of_gather,
        gather_into_conv,
    )
