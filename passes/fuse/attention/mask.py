# SPDX-License-Identifier: Apache-2.0
"""Masks of an attention: what is added to its scores, or put in their place, before the softmax.

Every spelling becomes one mask that is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from burnish.passes.fuse.attention.additive_mask import with_floor, with_mask
from burnish.passes.fuse.attention.mask_kinds import Added, Floored, Mask
from burnish.passes.fuse.attention.mask_sizes import is_sized, score_sizes, sized
from burnish.passes.fuse.attention.minus_infinity import lowest
from burnish.passes.fuse.attention.positions import condition_of, negated, unmasked
from burnish.passes.fuse.forms.form import Form, sees_some
from burnish.passes.rule import Builder, NoMatch, Operand
from burnish.passes.shapes import infer_node


def mask_of(
    op: Builder,
    masks: Sequence[Mask],
    q: Operand,
    k: Operand,
    *,
    guarded: bool,
    flat: bool = False,
) -> ir.Value | NoMatch | None:
    """Build the one mask that is added to the scores; None if there is none.

    Args:
        op: Builds the nodes.
        masks: In the order in which they apply.
        q: Queries `[batch, heads, queries, size]`.
        k: Keys `[batch, heads, keys, size]`.
        guarded: NaN behind the softmax becomes 0.
        flat: The masks are those of scores of three axes, and get an axis of heads.
    """
    guarded = guarded or (not flat and _leaves_some(masks, q, k))
    whole: ir.Value | None = None
    for index, mask in enumerate(masks):
        if isinstance(mask, Floored):
            made = None if whole is None else with_floor(op, whole, mask, q)
            if made is None:
                continue  # of the scores alone, none is that low
        else:
            held = guarded or any(isinstance(later, Floored) for later in masks[index:])
            made = with_mask(op, mask, whole, q, guarded=held, flat=flat)
        if isinstance(made, NoMatch):
            return made
        whole = _inferred(op, made)
    if whole is None or is_sized(whole, q, k):
        return whole
    return sized(op, whole, q, k)


def _leaves_some(masks: Sequence[Mask], q: Operand, k: Operand) -> bool:
    """Whether every query certainly sees a key."""
    sizes, seen = score_sizes(q, k), frozenset[Form]()
    if sizes is None or q.dtype is None:
        return False
    for mask in masks:
        if isinstance(mask, Floored):
            continue
        if isinstance(mask, Added):
            moved = mask.shape is not None or mask.windows or mask.factor < 0
            found = None if moved else unmasked(mask.value, lowest(q.dtype))
        else:
            found = condition_of(mask.condition)
            found = found if mask.keeps else negated(found)
        if found is None:
            return False
        seen |= found
    return bool(masks) and sees_some(seen, *sizes)


def _inferred(op: Builder, value: ir.Value) -> ir.Value:
    """Let the shape of a value that was just built be known."""
    node = value.producer()
    if node is not None and node.graph is None:
        for new in op.nodes:
            if any(output.shape is None for output in new.outputs):
                infer_node(new, op.opset_imports)
    return value
