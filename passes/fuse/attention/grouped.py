# SPDX-License-Identifier: Apache-2.0
"""GroupQueryAttention, the runtime's own operator of decoders, for targets that prefer it.

It is causal always and counts the keys of each batch. ONNX Runtime 1.31.1 on the CPU runs it at
0.80 to 1.17 of the spelled-out form where the standard Attention runs at 1.04 to 1.84 (one thread,
in turns, one new token after 32 to 2048).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.operators import wants_grouped
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.pattern import optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(SINCE, None))
def attention_to_grouped_query(op: Any, q: Any, k: Any, v: Any) -> Any:
    """Causal Attention on three axes -> GroupQueryAttention, where the target prefers that."""
    return op.Attention(q, k, v, is_causal=1, _bind="inner")


@attention_to_grouped_query.rewrite
def _(
    op: Builder, q: Operand, k: Operand, v: Operand, inner: ir.Node, ctx: PassContext
) -> Replacement:
    made = _grouped(op, ctx, inner, q, k, v)
    return made if isinstance(made, NoMatch) else made[0]


@rule(opset=(SINCE, None))
def cached_attention_to_grouped_query(
    op: Any, q: Any, k: Any, v: Any, past_key: Any, past_value: Any, mask: Any = optional()
) -> Any:
    """Causal Attention with past keys and values -> GroupQueryAttention, where preferred."""
    parts = q, k, v, mask, past_key, past_value
    return op.Attention(*parts, is_causal=1, _bind="inner", _outputs=3)


@cached_attention_to_grouped_query.rewrite
def _(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None,
    past_key: Operand,
    past_value: Operand,
    inner: ir.Node,
    ctx: PassContext,
) -> Replacement:
    if mask is not None:
        return NoMatch("there is a mask besides the causal one")
    if q.dims is None or (q.dims[0] != 1 and q.dims[1] != 1):
        return NoMatch("several tokens of several batches behind a past")
    made = _grouped(op, ctx, inner, q, k, v, past_key, past_value)
    if not isinstance(made, NoMatch):
        for new, old in zip(made[1:], inner.outputs[1:], strict=True):
            new.shape, new.type = old.shape, old.type
    return made


def _grouped(
    op: Builder,
    ctx: PassContext,
    inner: ir.Node,
    q: Operand,
    k: Operand,
    v: Operand,
    *past: Operand,
) -> tuple[ir.Value, ...] | NoMatch:
    if not wants_grouped(ctx.target, q.dtype):
        return NoMatch(f"target {ctx.target.name} does not prefer GroupQueryAttention")
    heads, shared = (op.attribute(inner, name) for name in ("q_num_heads", "kv_num_heads"))
    if not heads or not shared or q.dims is None or k.dims is None or v.dims is None:
        return NoMatch("queries, keys and values are not of three axes")
    if not isinstance(k.dims[2], int) or k.dims[2] != v.dims[2]:
        return NoMatch("keys and values are not of one size")
    keys = op.Shape(k, start=1, end=2)
    if past:
        keys = op.Add(keys, op.Shape(past[0], start=2, end=3))
    count = op.Cast(keys, to=ir.DataType.INT32)
    last = op.Sub(count, np.array([1], np.int32))
    made: tuple[ir.Value, ...] = op.GroupQueryAttention(
        q,
        k,
        v,
        *(past or (None, None)),
        op.Expand(last, op.Shape(q, start=0, end=1)),
        op.Squeeze(count, np.array([0])),
        num_heads=heads,
        kv_num_heads=shared,
        scale=op.attribute(inner, "scale"),
        softcap=op.attribute(inner, "softcap"),
        _domain=MICROSOFT,
        _outputs=3,
    )
    made[0].shape, made[0].type = inner.outputs[0].shape, inner.outputs[0].type
    return made
