# SPDX-License-Identifier: Apache-2.0
"""Attention splits and joins its heads itself: no Transpose around it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.attention.heads import SWAP_HEADS, joined, split
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.pattern import optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


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
    made = _joined(op, inner, q, k, v, mask)
    return made if isinstance(made, NoMatch) else made[0]


@rule(opset=(SINCE, None))
def cached_attention_joins_heads(
    op: Any, q: Any, k: Any, v: Any, past_key: Any, past_value: Any, mask: Any = optional()
) -> Any:
    """Let Attention with past keys and values split and join the heads of the new ones."""
    parts = (op.Transpose(part, perm=list(SWAP_HEADS)) for part in (q, k, v))
    y, keys, values = op.Attention(*parts, mask, past_key, past_value, _bind="inner", _outputs=3)
    return op.Transpose(y, perm=list(SWAP_HEADS)), keys, values


@cached_attention_joins_heads.rewrite
def _(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    mask: Operand | None,
    past_key: Operand,
    past_value: Operand,
    inner: ir.Node,
) -> Replacement:
    made = _joined(op, inner, q, k, v, mask, past_key, past_value)
    if not isinstance(made, NoMatch):
        for new, old in zip(made[1:], inner.outputs[1:], strict=True):
            new.shape, new.type = old.shape, old.type
    return made


def _joined(
    op: Builder, inner: ir.Node, q: Operand, k: Operand, v: Operand, *others: Operand | None
) -> tuple[ir.Value, ...] | NoMatch:
    """Return the outputs of an attention on three axes, the first one split into heads."""
    if q.dims is None or k.dims is None:
        return NoMatch("the rank of queries or keys is unknown")
    heads, shared = q.dims[2], k.dims[2]
    if not isinstance(heads, int) or not isinstance(shared, int):
        return NoMatch("the number of heads is unknown")
    parts = (joined(op, part) for part in (q, k, v))
    made = op.like(inner, *parts, *others, q_num_heads=heads, kv_num_heads=shared)
    first, *rest = made if isinstance(made, tuple) else (made,)
    return split(op, first, heads), *rest
