# SPDX-License-Identifier: Apache-2.0
"""What an attention is written as: the standard operator, or one of the runtime's own.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, in turns, against the spelled-out form, are
in docs/decisions.md; those the choice is made by stand in `burnish.backends.preferences`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.backends.preferences import find
from burnish.backends.target import MICROSOFT, Target
from burnish.passes.fuse.attention.heads import joined, split, swapped
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement


@dataclass(frozen=True)
class Attended:
    """The parts of an attention.

    Attributes:
        q: Queries `[batch, heads, queries, size]`.
        k: Keys `[batch, heads or a divisor, keys, size]`.
        v: Values `[batch, heads or a divisor, keys, other size]`.
        mask: Added to the scores, or None.
        scale: Of the scores.
        softcap: c, if a scaled score s becomes c tanh(s / c); else 0.
        guarded: NaN behind the softmax becomes 0.
        wide: The softmax is in float32, though all else is narrower.
    """

    q: Operand
    k: Operand
    v: Operand
    mask: ir.Value | None
    scale: float
    softcap: float = 0.0
    guarded: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Form:
    """One way to write an attention.

    Attributes:
        write: Builds it.
        shares_heads: Several heads of queries may have one of keys and values.
    """

    write: Callable[[Builder, Attended], Replacement]
    shares_heads: bool


def form_for(
    op: Builder, target: Target, dtype: ir.DataType | None, *, capped: bool
) -> Form | NoMatch:
    """Return what the target wants an attention to be, the first choice first."""
    reason = f"the operator set has no Attention: upgrade to {SINCE}"
    if op.opset_imports.get("", 1) >= SINCE:
        objection = target.objection_to("Attention", dtype)
        if objection is None and capped:
            objection = target.objection_to("Attention-softcap", dtype)
        if objection is None or wants_grouped(target, dtype):
            return Form(_standard, shares_heads=True)
        reason = objection
    objection = target.objection_to("microsoft.MultiHeadAttention", dtype)
    if objection is None and capped:
        reason = "MultiHeadAttention does not cap its scores"
    elif objection is None:
        return Form(_multi_head, shares_heads=False)
    return NoMatch(reason)


def wants_grouped(target: Target, dtype: ir.DataType | None) -> bool:
    """Whether the target's table prefers GroupQueryAttention to Attention."""
    if target.objection_to("Attention", dtype) is None:
        return False
    kind = None if dtype is None else dtype.name
    known = find(target.preferences, "microsoft.GroupQueryAttention", kind)
    return known is not None and known.prefer


def _standard(op: Builder, given: Attended) -> Replacement:
    # Its rows masked whole are 0, with or without a guard.
    y = op.Attention(
        given.q,
        given.k,
        given.v,
        given.mask,
        scale=given.scale,
        softcap=given.softcap or None,
        softmax_precision=int(ir.DataType.FLOAT) if given.wide else None,
    )
    return _shaped(y, given)


def _multi_head(op: Builder, given: Attended) -> Replacement:
    assert given.q.dims is not None
    assert given.q.dtype is not None
    heads = given.q.dims[1]
    assert isinstance(heads, int)
    parts = (joined(op, swapped(op, part)) for part in (given.q, given.k, given.v))
    mask = given.mask
    if mask is not None and mask.shape is not None and len(mask.shape) < 4:
        mask = op.Unsqueeze(mask, np.arange(4 - len(mask.shape)))
    y = op.MultiHeadAttention(
        *parts, None, None, mask, num_heads=heads, scale=given.scale, _domain=MICROSOFT
    )
    y = _shaped(swapped(op, split(op, y, heads)), given)
    if not given.guarded or given.mask is None:
        return y
    return op.Where(op.IsNaN(y), np.zeros((), given.q.dtype.numpy()), y)


def _shaped(y: ir.Value, given: Attended) -> ir.Value:
    """Say what is known of the shape of an attention `[batch, heads, queries, size]`."""
    assert given.q.dims is not None
    assert given.v.dims is not None
    y.shape, y.type = ir.Shape([*given.q.dims[:3], given.v.dims[3]]), given.q.value.type
    return y
