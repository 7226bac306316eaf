# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, as transformers spell it, becomes RotaryEmbedding.

x * cos + turned(x) * sin turns pairs of the elements of x by an angle: the halves (x1, x2) become
[-x2, x1], or every two neighbours swap places. Then parts of x may be left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.absorbed_heads import (
    attention_joins_heads,
    cached_attention_joins_heads,
)
from burnish.passes.fuse.attention.heads import SWAP_HEADS, joined, split, swapped
from burnish.passes.fuse.attention.rotary_pairs import rotary_pairs
from burnish.passes.fuse.attention.rotation import (
    LAST,
    halves_of,
    joins_last,
    place,
    rotation,
    window,
)
from burnish.passes.fuse.sizes import size_of_input
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule
from burnish.passes.shapes import infer_node

_SINCE = 23  # operator set of RotaryEmbedding


@rule(opset=(_SINCE, None))
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
        axis=lambda axis: axis in (-1, 3, 4),
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
        axis=lambda axis: axis in (-1, 3, 4),
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
    objection = ctx.target.objection_to("RotaryEmbedding", x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if x.dims is None or len(x.dims) not in (3, 4) or not isinstance(x.dims[-1], int):
        return NoMatch("what is rotated is not of rank 3 or 4, or its size is unknown")
    rank, size, paired = len(x.dims), x.dims[-1], stacked is not None
    wanted = ((0, size, 2), (1, size, 2)) if paired else ((0, size // 2, 1), (size // 2, size, 1))
    found: tuple[object, ...] | None
    if even is not None and odd is not None:
        found = wanted if _are_pairs_of(x, even.value, odd.value) else None
    elif lower is None:
        found = halves_of(halves)
    else:
        found = (window(lower, rank, size), window(upper, rank, size))
    if found != wanted or not joins_last(turn, rank + paired):
        return NoMatch("the slices are not the two halves")
    if stacked is not None and not _side_by_side(stacked, x):
        return NoMatch("the neighbours are not put side by side again")
    return rotation(op, x, cos, sin, paired=paired)


def _are_pairs_of(x: Operand, even: ir.Value, odd: ir.Value) -> bool:
    """Whether two values are the first and the second of the pairs that x is reshaped to."""
    first, second = place(even), place(odd)
    if first is None or second is None or first[0] is not second[0] or x.dims is None:
        return False
    reshape, dims = first[0].producer(), first[0].shape
    if reshape is None or reshape.op_type != "Reshape" or reshape.inputs[0] is not x.value:
        return False
    if dims is None or len(dims) != len(x.dims) + 1 or dims[-1] != 2:
        return False
    return bool(dims[-2] * 2 == x.dims[-1]) and (first[1], second[1]) == (0, 1)


def _side_by_side(stacked: ir.Node, x: Operand) -> bool:
    """Whether pairs `[..., size / 2, 2]`, stacked along the last axis, become `[..., size]`."""
    pairs, whole = stacked.inputs[0], stacked.outputs[0].shape
    if pairs is None or pairs.shape is None or x.dims is None or pairs.shape[-1] != 2:
        return False
    rank = len(x.dims)
    if len(pairs.shape) != rank + 1 or whole is None or len(whole) != rank:
        return False
    return whole[-1] == x.dims[-1]


# --- parts that are not rotated ----------------------------------------------------------------


@rule(opset=(_SINCE, None))
def rotary_part(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Concat(RotaryEmbedding(x[:n]), x[n:]) -> RotaryEmbedding of the first n elements of x."""
    turned = op.RotaryEmbedding(op.Slice(x, _more=True, _bind="front"), cos, sin, _bind="inner")
    return op.Concat(turned, op.Slice(x, _more=True, _bind="back"), axis=lambda a: a in (-1, 3))


@rotary_part.also
def _(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    front = op.Reshape(op.Slice(x, _more=True, _bind="front"), _more=True)
    turned = op.Reshape(op.RotaryEmbedding(front, cos, sin, _bind="inner"), _more=True)
    return op.Concat(turned, op.Slice(x, _more=True, _bind="back"), axis=lambda a: a in (-1, 3))


@rotary_part.rewrite
def _(
    op: Builder,
    x: Operand,
    cos: Operand,
    sin: Operand,
    front: ir.Node,
    back: ir.Node,
    inner: ir.Node,
) -> Replacement:
    if x.dims is None or len(x.dims) != 4 or not isinstance(x.dims[3], int):
        return NoMatch("what is rotated is not of rank 4, or its size is unknown")
    size, heads = x.dims[3], op.attribute(inner, "num_heads")
    turned, left = window(front, 4, size), window(back, 4, size)
    if turned is None or left is None or op.attribute(inner, "rotary_embedding_dim"):
        return NoMatch("the slices are not the two parts")
    begin, middle, _ = turned
    end = left[1]
    if left[0] != middle or turned[2] != 1 or left[2] != 1:
        return NoMatch("the slices are not the two parts")
    whole = x.value
    if (begin, end) != (0, size):  # of x, they are parts of a part
        whole = op.Slice(x, np.array([begin]), np.array([end]), np.array([3]))
        infer_node(op.nodes[-1], op.opset_imports)
    count = middle - begin
    if not heads:
        return op.like(inner, whole, cos, sin, rotary_embedding_dim=count)
    if x.dims[2] != heads:
        return NoMatch("the heads are not the third axis")
    y = op.like(inner, joined(op, whole), cos, sin, rotary_embedding_dim=count)
    return split(op, y, heads)


# --- heads -------------------------------------------------------------------------------------


@rule(opset=(_SINCE, None))
def rotary_joins_heads(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """RotaryEmbedding(Transpose(x)) -> Transpose(RotaryEmbedding(x)), for an Attention behind it.

    Attention then does what the Transpose does.
    """
    return op.RotaryEmbedding(op.Transpose(x, perm=list(SWAP_HEADS)), cos, sin, _bind="inner")


@rotary_joins_heads.rewrite
def _(op: Builder, x: Operand, cos: Operand, sin: Operand, inner: ir.Node) -> Replacement:
    users = inner.outputs[0].consumers()
    if not users or any(user.op_type != "Attention" or user.domain != "" for user in users):
        return NoMatch("no Attention uses what is rotated")
    if x.dims is None or not isinstance(x.dims[2], int):
        return NoMatch("the number of heads is unknown")
    y = op.like(inner, joined(op, x), cos, sin, num_heads=x.dims[2])
    return swapped(op, split(op, y, x.dims[2]))


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Fuse spelled-out rotary position embedding into one operator."""

    name: ClassVar[str] = "fuse-rotary"
    rules: ClassVar[tuple[Rule, ...]] = (
        size_of_input,  # then all layers share their tables
        rotary,
        rotary_pairs,
        rotary_part,
        rotary_joins_heads,
        attention_joins_heads,
        cached_attention_joins_heads,
    )
