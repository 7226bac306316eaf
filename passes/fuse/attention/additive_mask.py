# SPDX-License-Identifier: Apache-2.0
"""Masks of every kind as one that is added to the scores."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.fuse.attention.mask_kinds import Added, Floored, Replaced
from burnish.passes.fuse.attention.minus_infinity import far, number_of, soft
from burnish.passes.rule import Builder, NoMatch, Operand


def with_mask(
    op: Builder,
    mask: Added | Replaced,
    before: ir.Value | None,
    q: Operand,
    *,
    guarded: bool,
    flat: bool,
) -> ir.Value | NoMatch:
    """Return the sum of the mask and what there was before it.

    Args:
        op: Builds it.
        mask: What is added to the scores, or put in their place.
        before: The sum of the masks before it, of the type of the queries; None if there are none.
        q: Queries `[batch, heads, queries, size]`, of floating point.
        guarded: NaN behind the softmax becomes 0, or every query certainly sees a key.
        flat: The scores have three axes; masks of three get an axis of heads.
    """
    assert q.dtype is not None
    if isinstance(mask, Added):
        made = _softened(op, mask, guarded=guarded)
        if isinstance(made, NoMatch):
            return made
        if mask.factor != 1:
            made = op.Mul(made, number_of(mask.factor, mask.value.dtype))
        if mask.value.dtype != q.dtype:
            made = op.Cast(made, to=q.dtype)
        if mask.shape is not None:
            made = op.Reshape(made, _four_axes(op, mask.value, mask.shape))
        if mask.windows:
            made = _for_each_image(op, made, mask, q)
        if flat and Operand(mask.value).rank == 3:
            made = op.Unsqueeze(made, np.array([1]))
        return made if before is None else op.Add(before, made)
    fill = soft(mask.fill, q.dtype, guarded=guarded)
    if isinstance(fill, NoMatch):
        return fill
    # What replaces the scores must, once it is added to them, still be alike for all of them.
    number = number_of(min(fill, far(q.dtype)), q.dtype)
    kept = np.zeros((), q.dtype.numpy()) if before is None else before
    branches = (kept, number) if mask.keeps else (number, kept)
    condition = mask.condition
    if flat and Operand(condition).rank == 3:
        condition = op.Unsqueeze(condition, np.array([1]))
    return op.Where(condition, *branches)  # type: ignore[no-any-return]


def _softened(op: Builder, mask: Added, *, guarded: bool) -> ir.Value | NoMatch:
    """Replace the least finite number in a mask that is chosen by a condition."""
    value, sign = mask.value, math.copysign(1, mask.factor)
    node = value.producer()
    if value.dtype is None:
        return NoMatch("the type of the mask is unknown")
    least = far(value.dtype)
    if node is None or node.op_type != "Where":
        array = as_array(value)
        if array is not None and not guarded and (sign * array <= least).all(axis=-1).any():
            return NoMatch("a row is masked whole")
        return value
    condition, *branches = node.inputs
    chosen: list[object] = []
    for branch in branches:
        number = scalar_of(branch)
        if number is None or sign * number > least:
            chosen.append(branch)
            continue
        fill = soft(sign * number, value.dtype, guarded=guarded)
        if isinstance(fill, NoMatch):
            return fill
        same = sign * fill == number
        chosen.append(branch if same else np.asarray(sign * fill, value.dtype.numpy()))
    if all(mine is theirs for mine, theirs in zip(chosen, branches, strict=True)):
        return value
    return op.Where(condition, *chosen)  # type: ignore[no-any-return]


def with_floor(op: Builder, whole: ir.Value, mask: Floored, q: Operand) -> ir.Value | NoMatch:
    """Hold the sum of all masks above minus infinity; where it is chosen, choose other numbers.

    Args:
        op: Builds it.
        whole: The sum, of the type of the queries.
        mask: What it is held at.
        q: Queries, of floating point.
    """
    assert q.dtype is not None
    low = soft(mask.low, q.dtype, guarded=True)
    if isinstance(low, NoMatch):
        return low
    number, node = number_of(low, q.dtype), whole.producer()
    if node is None or node.op_type != "Where":
        return op.Max(whole, number)  # type: ignore[no-any-return]
    found = [scalar_of(branch) for branch in node.inputs[1:]]
    if any(branch is None for branch in found):
        return op.Max(whole, number)  # type: ignore[no-any-return]
    if all(branch is not None and branch >= number for branch in found):
        return whole
    chosen = (number_of(max(branch or 0.0, low), q.dtype) for branch in found)
    return op.Where(node.inputs[0], *chosen)  # type: ignore[no-any-return]


def _four_axes(op: Builder, mask: ir.Value, scores: ir.Value) -> ir.Value:
    if mask.shape is None or mask.shape[1] != 1:
        return scores
    leading = op.Slice(scores, np.array([0]), np.array([2]))
    return op.Concat(leading, np.array([1, -1]), axis=0)  # type: ignore[no-any-return]


def _for_each_image(op: Builder, made: ir.Value, mask: Added, q: Operand) -> ir.Value:
    """Repeat a mask of windows for each image; then windows of images are one axis."""
    assert mask.value.shape is not None
    images = op.Div(op.Shape(q, start=0, end=1), op.Shape(mask.value, start=1, end=2))
    all_of_them = op.Expand(made, op.Concat(images, np.array([1, 1, 1, 1]), axis=0))
    rows, columns = mask.value.shape.dims[3:]
    return op.Reshape(all_of_them, np.array([-1, 1, rows, columns]))  # type: ignore[no-any-return]
