# SPDX-License-Identifier: Apache-2.0
"""Attention, however it is spelled, becomes the operator that the target runs fastest.

softmax(scale * q k^T + mask) v is read with `scores` and `mask`, its heads with `heads`; what is
written in its place, if anything, is for the target to say (`Target.objection_to`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.cleanup import Cleanup
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention_opset import SINCE, has_attention
from burnish.passes.fuse.heads import (
    SWAP_HEADS,
    apart,
    joined,
    split,
    swap_last_axes,
    swapped,
    unrepeated,
)
from burnish.passes.fuse.mask import mask_of
from burnish.passes.fuse.scores import Scores, read_scores
from burnish.passes.fuse.sizes import RULES as SIZES
from burnish.passes.pattern import optional
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule
from burnish.passes.shapes import forget_shapes, infer_node


def _softmax(op: Any, scores: Any) -> Any:
    return op.Softmax(scores, axis=lambda axis: axis in (-1, 3))


@rule(opset=(13, None))
def attention(op: Any, scores: Any, v: Any) -> Any:
    """Fuse softmax(scale * q k^T + mask) v into Attention, or into MultiHeadAttention."""
    return op.MatMul(_softmax(op, scores), v, _bind="product")


@attention.also
def _(op: Any, scores: Any, v: Any) -> Any:
    # Rows that are masked whole are NaN; exporters make them 0.
    weights = _softmax(op, scores)
    weights = op.Where(op.IsNaN(weights), 0.0, weights, _bind="guard")
    return op.MatMul(weights, v, _bind="product")


@attention.also
def _(op: Any, scores: Any, v: Any, merge: Any, part: Any) -> Any:
    # All heads of all batches one behind another, and apart again.
    weights = op.Reshape(_softmax(op, scores), merge)
    return op.Reshape(op.MatMul(weights, v, _bind="product"), part, _bind="parted")


@attention.rewrite
def _(
    op: Builder,
    scores: Operand,
    v: Operand,
    guard: ir.Node | None,
    parted: ir.Node | None,
    ctx: PassContext,
) -> Replacement:
    found = read_scores(scores.value)
    if not isinstance(found, Scores):
        return found
    form = _form(op, ctx, found.queries.dtype)
    if isinstance(form, NoMatch):
        return form
    values = v.value if parted is None else apart(v.value)
    if values is None:
        return NoMatch("the values are not known to be heads put one behind another")
    parts = _parts(op, found, values, shared=form is _standard)
    if isinstance(parts, NoMatch):
        return parts
    result = None if parted is None else parted.outputs[0]
    if result is not None and not _has_dims(result, parts):
        return NoMatch("the product is not split into the heads it came from")
    mask = mask_of(op, found.masks, parts[0], parts[1], guarded=guard is not None)
    if isinstance(mask, NoMatch):
        return mask
    return form(op, *parts, mask, found.scale, guard is not None)


# --- queries, keys and values ------------------------------------------------------------------

Parts = tuple[Operand, Operand, Operand]


def _parts(op: Builder, found: Scores, values: ir.Value, *, shared: bool) -> Parts | NoMatch:
    """Return queries, keys and values `[batch, heads, length, size]` that fit together.

    Args:
        op: Builds what is still needed.
        found: What the scores are made of.
        values: As they are multiplied.
        shared: Several heads of queries may have one of keys and values.
    """
    keys, times, again = found.keys, 1, 1
    if found.keys_perm is not None:
        keys = op.Transpose(keys, perm=found.keys_perm)
        infer_node(op.nodes[-1], op.opset_imports)
    elif shared:
        (few_keys, times), (few_values, again) = unrepeated(keys), unrepeated(values)
        if times == again:
            keys, values = few_keys, few_values
        else:
            times = 1
    parts = Operand(found.queries), Operand(keys), Operand(values)
    if any(_is_dequantized(part) for part in parts):
        return NoMatch("queries, keys or values are quantized")
    q, k, v = (part.dims for part in parts)
    if q is None or k is None or v is None:
        return NoMatch("the rank of queries, keys or values is unknown")
    if not len(q) == len(k) == len(v) == 4:
        return NoMatch("queries, keys and values are not of rank 4")
    if not (same_dim(q[0], k[0]) and same_dim(q[0], v[0])):
        return NoMatch("queries, keys and values are not known to have the same batch size")
    if not isinstance(q[1], int) or not isinstance(k[1], int) or k[1] != v[1]:
        return NoMatch("the number of heads is unknown")
    if k[1] * times != q[1]:
        return NoMatch("queries and keys have different heads")
    return parts


def _is_dequantized(part: Operand) -> bool:
    producer = part.value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _has_dims(result: ir.Value, parts: Parts) -> bool:
    q, _, v = (part.dims for part in parts)
    if result.shape is None or q is None or v is None or len(result.shape) != 4:
        return False
    return all(map(same_dim, result.shape.dims, (*q[:3], v[3])))


# --- what is written ---------------------------------------------------------------------------

Form = Callable[[Builder, Operand, Operand, Operand, ir.Value | None, float, bool], Replacement]


def _form(op: Builder, ctx: PassContext, dtype: ir.DataType | None) -> Form | NoMatch:
    """Return what the target wants an attention to be, the first choice first."""
    reason = f"the operator set has no Attention: upgrade to {SINCE}"
    if op.opset_imports.get("", 1) >= SINCE:
        objection = ctx.target.objection_to("Attention", dtype)
        if objection is None:
            return _standard
        reason = objection
    objection = ctx.target.objection_to("microsoft.MultiHeadAttention", dtype)
    return _multi_head if objection is None else NoMatch(reason)


def _standard(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: ir.Value | None,
    scale: float,
    guarded: bool,
) -> Replacement:
    # Its rows masked whole are 0, with or without a guard.
    return _shaped(op.Attention(q, k, v, mask, scale=scale), q, v)


def _multi_head(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: ir.Value | None,
    scale: float,
    guarded: bool,
) -> Replacement:
    assert q.dims is not None
    heads = q.dims[1]
    parts = (joined(op, swapped(op, part)) for part in (q, k, v))
    y = op.MultiHeadAttention(
        *parts, None, None, mask, num_heads=heads, scale=scale, _domain=MICROSOFT
    )
    assert isinstance(heads, int)
    y = _shaped(swapped(op, split(op, y, heads)), q, v)
    if not guarded or mask is None:
        return y
    assert q.dtype is not None
    return op.Where(op.IsNaN(y), np.zeros((), q.dtype.numpy()), y)


def _shaped(y: ir.Value, q: Operand, v: Operand) -> ir.Value:
    """Say what is known of the shape of an attention `[batch, heads, queries, size]`."""
    assert q.dims is not None
    assert v.dims is not None
    y.shape, y.type = ir.Shape([*q.dims[:3], v.dims[3]]), q.value.type
    return y


# --- heads -------------------------------------------------------------------------------------


@rule(opset=(SINCE, None))
def attention_joins_heads(op: Any, q: Any, k: Any, v: Any, mask: Any = optional()) -> Any:
    """Let Attention split and join the heads that Transpose does around it."""
    parts = (op.Transpose(part, perm=list(SWAP_HEADS)) for part in (q, k, v))
    return op.Transpose(op.Attention(*parts, mask, _bind="inner"), perm=list(SWAP_HEADS))


@attention_joins_heads.also
def _(op: Any, q: Any, k: Any, v: Any, shape: Any, mask: Any = optional()) -> Any:
    parts = (op.Transpose(part, perm=list(SWAP_HEADS)) for part in (q, k, v))
    same = op.Reshape(op.Attention(*parts, mask, _bind="inner"), shape, _bind="reshape")
    return op.Transpose(same, perm=list(SWAP_HEADS))


@attention_joins_heads.rewrite
def _(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None,
    inner: ir.Node,
    reshape: ir.Node | None,
) -> Replacement:
    if reshape is not None:
        before, after = inner.outputs[0].shape, reshape.outputs[0].shape
        if before is None or after is None or not all(map(same_dim, before, after)):
            return NoMatch("what is reshaped may change its shape")
    if q.dims is None or k.dims is None:
        return NoMatch("the rank of queries or keys is unknown")
    heads, shared = q.dims[2], k.dims[2]
    if not isinstance(heads, int) or not isinstance(shared, int):
        return NoMatch("the number of heads is unknown")
    parts = (joined(op, part) for part in (q, k, v))
    y = op.like(inner, *parts, mask, q_num_heads=heads, kv_num_heads=shared)
    return split(op, y, heads)


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Fuse attention in every spelling into one operator, where that pays on the target."""

    name: ClassVar[str] = "fuse-attention"
    canonical: ClassVar[tuple[Rule, ...]] = (*SIZES, swap_last_axes)
    rules: ClassVar[tuple[Rule, ...]] = (*canonical, attention, attention_joins_heads)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs: first to one spelling, then to one operator."""
        if not has_attention(model):
            return
        left = _softmaxes(model)
        while True:
            # Of sizes that are computed, most are known only after others have been folded.
            forget_shapes(model)
            apply_rules(model, self.canonical, ctx)
            forget_shapes(model)
            apply_rules(model, self.rules, ctx)
            if left == (left := _softmaxes(model)):
                return
            Cleanup().run(model, ctx)


def _softmaxes(model: ir.Model) -> int:
    return sum(node.op_type == "Softmax" for node in model.graph.all_nodes())
