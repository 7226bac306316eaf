# SPDX-License-Identifier: Apache-2.0
"""x * cos + rotate_half(x) * sin, as transformers spell it, becomes RotaryEmbedding.

It turns pairs of the elements of x by an angle: the halves (x1, x2) become [-x2, x1] or, as in
rotate_every_two, every two neighbours swap places.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.fuse.attention.rotation import (
    LAST,
    STACKED,
    joins_last,
    pairs_of,
    parted,
    rank_and_size,
    rotation,
)
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(SINCE, None))
def rotary(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Fuse x * cos + [-x2, x1] * sin, where x1 and x2 are the halves of x, into RotaryEmbedding."""
    x1 = op.Slice(x, _more=True, _bind="lower")
    x2 = op.Slice(x, _more=True, _bind="upper")
    turned = op.Concat(op.Neg(x2), x1, axis=lambda axis: axis in LAST, _bind="turn")
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary.also
def _(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    x1, x2 = op.Split(x, _more=True, _outputs=2, axis=lambda axis: axis in LAST, _bind="halves")
    turned = op.Concat(op.Neg(x2), x1, axis=lambda axis: axis in LAST, _bind="turn")
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary.also
def _(op: Any, x: Any, cos: Any, sin: Any, minus: Any = const(), plus: Any = const()) -> Any:
    # Neighbours: [-x1, x0, -x3, x2, ...], stacked in pairs and put side by side again.
    even = op.Slice(x, _more=True, _bind="lower")
    odd = op.Slice(x, _more=True, _bind="upper")
    pairs = op.Concat(
        op.Unsqueeze(op.Neg(odd), minus),
        op.Unsqueeze(even, plus),
        axis=lambda axis: axis in STACKED,
        _bind="turn",
    )
    turned = op.Reshape(pairs, _more=True, _bind="stacked")
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary.also
def _(
    op: Any,
    x: Any,
    cos: Any,
    sin: Any,
    even: Any,
    odd: Any,
    minus: Any = const(),
    plus: Any = const(),
) -> Any:
    # Neighbours that were taken from pairs.
    pairs = op.Concat(
        op.Unsqueeze(op.Neg(odd), minus),
        op.either(op.Unsqueeze(even, plus), even),
        axis=lambda axis: axis in STACKED,
        _bind="turn",
    )
    turned = op.Reshape(pairs, _more=True, _bind="stacked")
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary.rewrite
def _(
    op: Builder,
    x: Operand,
    cos: Operand,
    sin: Operand,
    even: Operand | None,
    odd: Operand | None,
    lower: ir.Node | None,
    upper: ir.Node | None,
    halves: ir.Node | None,
    stacked: ir.Node | None,
    turn: ir.Node,
    ctx: PassContext,
) -> Replacement:
    known = rank_and_size(x, ctx)
    if isinstance(known, NoMatch):
        return known
    (rank, size), paired = known, stacked is not None
    if even is not None and odd is not None:
        found = _are_pairs_of(x, even.value, odd.value)
    else:
        nodes = [node for node in (lower, upper, halves) if node is not None]
        parts = [part for node in nodes for part in node.outputs]
        found = parted(parts[0], parts[1], size) == (x.value, paired)
    if not found or not joins_last(turn, rank + paired):
        return NoMatch("the slices are not the two halves")
    if stacked is not None and not _side_by_side(stacked, x):
        return NoMatch("the neighbours are not put side by side again")
    return rotation(op, x, cos, sin, paired=paired)


def _are_pairs_of(x: Operand, even: ir.Value, odd: ir.Value) -> bool:
    """Whether two values are the first and the second of the pairs that x is reshaped to."""
    pairs = pairs_of(even, odd)
    reshape = None if pairs is None else pairs.producer()
    if reshape is None or reshape.op_type != "Reshape" or reshape.inputs[0] is not x.value:
        return False
    if pairs is None or pairs.shape is None or x.dims is None:
        return False
    return len(pairs.shape) == len(x.dims) + 1 and bool(pairs.shape[-2] * 2 == x.dims[-1])


def _side_by_side(stacked: ir.Node, x: Operand) -> bool:
    """Whether pairs `[..., size / 2, 2]`, stacked along the last axis, become `[..., size]`."""
    pairs, whole = stacked.inputs[0], stacked.outputs[0].shape
    if pairs is None or pairs.shape is None or x.dims is None or pairs.shape[-1] != 2:
        return False
    rank = len(x.dims)
    if len(pairs.shape) != rank + 1 or whole is None or len(whole) != rank:
        return False
    return whole[-1] == x.dims[-1]
