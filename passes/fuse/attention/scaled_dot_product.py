# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention, softmax(scale * q k^T + mask) v, becomes one operator.

Its scores are read with `read_scores`; `mask` makes one of its masks, and `qkv` makes its queries,
keys and values fit; what is written, if anything, is for the target to say (`operators`).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.heads import apart
from burnish.passes.fuse.attention.mask import mask_of
from burnish.passes.fuse.attention.operators import Attended, form_for
from burnish.passes.fuse.attention.qkv import HEADS, has_dims, parts_of
from burnish.passes.fuse.attention.read_scores import read_scores
from burnish.passes.fuse.attention.scores import Scores
from burnish.passes.fuse.attention.zeroed import zeroed_too
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


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
    flat = all(Operand(part).rank == 3 for part in (found.queries, found.keys, values))
    parts = parts_of(op, found, values, shared=form.shares_heads, flat=flat)
    if isinstance(parts, NoMatch):
        return parts
    result = None if parted is None else parted.outputs[0]
    if result is not None and not has_dims(result, parts):
        return NoMatch("the product is not split into the heads it came from")
    mask = mask_of(op, masks, *parts[:2], guarded=guarded, flat=flat)
    if isinstance(mask, NoMatch):
        return mask
    wide = scores.dtype != parts[0].dtype
    y = form.write(op, Attended(*parts, mask, found.scale, found.softcap, guarded, wide))
    return op.Squeeze(y, HEADS) if flat else y
