# SPDX-License-Identifier: Apache-2.0
"""Attention, however it is spelled, becomes the operator that the target runs fastest.

softmax(scale * q k^T + mask) v is read with `read_scores`, its heads with `heads`; `mask` makes one
of its masks; what is written in its place, if anything, is for the target to say (`operators`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup import Cleanup
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.absorbed_heads import (
    attention_joins_heads,
    cached_attention_joins_heads,
)
from burnish.passes.fuse.attention.cache import attention_with_past
from burnish.passes.fuse.attention.causal import causal_attention
from burnish.passes.fuse.attention.heads import apart, swap_last_axes, unrepeated
from burnish.passes.fuse.attention.mask import mask_of
from burnish.passes.fuse.attention.merged import softmax_before_merge
from burnish.passes.fuse.attention.operators import Attended, form_for
from burnish.passes.fuse.attention.opset import has_attention, quantized_products
from burnish.passes.fuse.attention.read_scores import read_scores
from burnish.passes.fuse.attention.scores import FUSE_BEFORE, QUANTIZED, Scores
from burnish.passes.fuse.attention.tables import choice_by_table
from burnish.passes.fuse.attention.values import values_side_by_side
from burnish.passes.fuse.attention.zeroed import zeroed_too
from burnish.passes.fuse.sizes import RULES as SIZES
from burnish.passes.fuse.sizes import inferred_again
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule
from burnish.passes.shapes import infer_node


def _weights(op: Any, scores: Any, hidden: Any, seen: Any) -> Any:
    softmax = op.Softmax(scores, axis=lambda axis: axis in (-1, 3))
    plain = op.either(softmax, op.Cast(softmax))
    # They may be masked again behind the softmax: rows that are masked whole are 0 as well.
    zeroed = op.either(op.Where(hidden, 0.0, plain), op.Where(seen, plain, 0.0))
    return op.either(plain, zeroed, op.Cast(zeroed))


@rule(opset=(13, None))
def attention(op: Any, scores: Any, v: Any, hidden: Any, seen: Any) -> Any:
    """Fuse softmax(scale * q k^T + mask) v into Attention, or into MultiHeadAttention."""
    return op.MatMul(_weights(op, scores, hidden, seen), v, _bind="product")


@attention.also
def _(op: Any, scores: Any, v: Any, hidden: Any, seen: Any) -> Any:
    # Rows that are masked whole are NaN; exporters make them 0.
    weights = _weights(op, scores, hidden, seen)
    weights = op.Where(op.IsNaN(weights), 0.0, weights, _bind="guard")
    return op.MatMul(op.either(weights, op.Cast(weights)), v, _bind="product")


@attention.also
def _(op: Any, scores: Any, v: Any, merge: Any, part: Any, hidden: Any, seen: Any) -> Any:
    # All heads of all batches one behind another, and apart again.
    weights = op.Reshape(_weights(op, scores, hidden, seen), merge)
    return op.Reshape(op.MatMul(weights, v, _bind="product"), part, _bind="parted")


@attention.rewrite
def _(
    op: Builder,
    scores: Operand,
    v: Operand,
    guard: ir.Node | None,
    parted: ir.Node | None,
    hidden: Operand | None,
    seen: Operand | None,
    ctx: PassContext,
) -> Replacement:
    found = read_scores(scores.value)
    if not isinstance(found, Scores):
        return found
    masks, guarded, again = found.masks, guard is not None, hidden or seen
    if again is not None:
        zeroed = zeroed_too(masks, again.value, keeps=hidden is None)
        if isinstance(zeroed, NoMatch):
            return zeroed
        masks, guarded = zeroed, True
    values = v.value if parted is None else apart(v.value)
    if values is None:
        return NoMatch("the values are not known to be heads put one behind another")
    form = form_for(op, ctx.target, v.dtype, capped=found.softcap != 0)
    if isinstance(form, NoMatch):
        return form
    flat = all(_has_three_axes(value) for value in (found.queries, found.keys, values))
    parts = _parts(op, found, values, shared=form.shares_heads, flat=flat)
    if isinstance(parts, NoMatch):
        return parts
    result = None if parted is None else parted.outputs[0]
    if result is not None and not _has_dims(result, parts):
        return NoMatch("the product is not split into the heads it came from")
    mask = mask_of(op, masks, *parts[:2], guarded=guarded, flat=flat)
    if isinstance(mask, NoMatch):
        return mask
    wide = scores.dtype != parts[0].dtype
    y = form.write(op, Attended(*parts, mask, found.scale, found.softcap, guarded, wide))
    return op.Squeeze(y, _HEADS) if flat else y


# --- queries, keys and values ------------------------------------------------------------------

Parts = tuple[Operand, Operand, Operand]
_HEADS = np.array([1])  # their axis


def _parts(
    op: Builder, found: Scores, values: ir.Value, *, shared: bool, flat: bool
) -> Parts | NoMatch:
    """Return queries, keys and values `[batch, heads, length, size]` that fit together.

    Args:
        op: Builds what is still needed.
        found: What the scores are made of.
        values: As they are multiplied.
        shared: Several heads of queries may have one of keys and values.
        flat: They have three axes, be it that heads and batches share one; then there is one head.
    """
    queries, keys, times, again = found.queries, found.keys, 1, 1
    if queries.dtype != values.dtype:
        queries, keys = _narrow(queries, values.dtype), _narrow(keys, values.dtype)
    if not queries.dtype == keys.dtype == values.dtype:
        return NoMatch("queries, keys and values have different types")
    if found.factor is not None:
        queries = op.Mul(queries, found.factor)
        infer_node(op.nodes[-1], op.opset_imports)
    if found.keys_perm is not None:
        keys = op.Transpose(keys, perm=found.keys_perm)
        infer_node(op.nodes[-1], op.opset_imports)
    elif shared:
        (few_keys, times), (few_values, again) = unrepeated(keys), unrepeated(values)
        if times == again:
            keys, values = few_keys, few_values
        else:
            times = 1
    if flat:
        queries, keys, values = (_with_one_head(op, part) for part in (queries, keys, values))
    parts = Operand(queries), Operand(keys), Operand(values)
    if any(_is_dequantized(part) for part in parts):
        return NoMatch("queries, keys or values are quantized", FUSE_BEFORE)
    q, k, v = (part.dims for part in parts)
    if q is None or k is None or v is None:
        return NoMatch("the rank of queries, keys or values is unknown")
    if not len(q) == len(k) == len(v) == 4:
        return NoMatch("queries, keys and values are not of rank 4")
    if not (same_dim(q[0], k[0]) and same_dim(q[0], v[0])):
        return NoMatch("queries, keys and values are not known to have the same batch size")
    if not isinstance(q[1], int) or not isinstance(k[1], int) or k[1] != v[1]:
        return NoMatch("the number of heads is unknown")
    if k[1] * times != q[1] and not (shared and k[1] == 1):
        return NoMatch("queries and keys have different heads")
    return parts


def _has_three_axes(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 3


def _with_one_head(op: Builder, part: ir.Value) -> ir.Value:
    made: ir.Value = op.Unsqueeze(part, _HEADS)
    infer_node(op.nodes[-1], op.opset_imports)
    return made


def _narrow(value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    """Return what was cast to a wider type, if it was of `dtype`."""
    cast = value.producer()
    inner = None if cast is None or cast.op_type != "Cast" else cast.inputs[0]
    return inner if inner is not None and inner.dtype == dtype else value


def _is_dequantized(part: Operand) -> bool:
    producer = part.value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _has_dims(result: ir.Value, parts: Parts) -> bool:
    q, _, v = (part.dims for part in parts)
    if result.shape is None or q is None or v is None or len(result.shape) != 4:
        return False
    return all(map(same_dim, result.shape.dims, (*q[:3], v[3])))


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Fuse attention in every spelling into one operator, where that pays on the target."""

    name: ClassVar[str] = "fuse-attention"
    rules: ClassVar[tuple[Rule, ...]] = (
        *SIZES,
        swap_last_axes,
        softmax_before_merge,
        values_side_by_side,
        choice_by_table,
        attention,
        attention_with_past,
        causal_attention,
        attention_joins_heads,
        cached_attention_joins_heads,
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs, again while it makes more attentions known."""
        for product in quantized_products(model):
            ctx.refuse(attention.name, product, QUANTIZED, repair=FUSE_BEFORE)
        if not has_attention(model):
            return
        left = _softmaxes(model)
        while True:
            # Of sizes that are computed, most are known only after others have been folded.
            with inferred_again(model):
                apply_rules(model, self.rules, ctx)
            if left == (left := _softmaxes(model)) or not left:
                return
            Cleanup().run(model, ctx)


def _softmaxes(model: ir.Model) -> int:
    return sum(node.op_type == "Softmax" for node in model.graph.all_nodes())
