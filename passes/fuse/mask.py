# SPDX-License-Identifier: Apache-2.0
"""Masks of an attention: what is added to its scores, or put in their place, before the softmax.

Every spelling becomes one mask that is added. What is "minus infinity" there matters in rows that
are masked whole: of scores alike, a softmax makes equal weights; of scores of minus infinity it
makes NaN, which exporters turn into 0 behind it. A fused attention gives 0 for every score at or
below the least finite number. So that least number becomes half of it: still minus infinity to
`exp`, and equal weights where there is nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import Size, same_dim
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.rule import Builder, NoMatch, Operand
from burnish.passes.shapes import infer_node

# Far enough below every score that adding one to it changes nothing.
_ABSORBS = 1e30


@dataclass(frozen=True)
class Added:
    """A mask or bias that is added to the scores, of their type.

    Attributes:
        value: `[..., queries, keys]`.
        shape: What it has to be reshaped to, if it has to.
    """

    value: ir.Value
    shape: ir.Value | None = None


@dataclass(frozen=True)
class Replaced:
    """Scores that are replaced by one number.

    Attributes:
        condition: Boolean, broadcastable to the scores.
        keeps: Which of its two values leaves a score as it is.
        fill: What replaces the others.
    """

    condition: ir.Value
    keeps: bool
    fill: float


Mask = Added | Replaced


def mask_of(
    op: Builder, masks: Sequence[Mask], q: Operand, k: Operand, *, guarded: bool
) -> ir.Value | NoMatch | None:
    """Build the one mask that is added to the scores; None if there is none.

    Args:
        op: Builds the nodes.
        masks: In the order in which they apply.
        q: Queries `[batch, heads, queries, size]`.
        k: Keys `[batch, heads, keys, size]`.
        guarded: NaN behind the softmax becomes 0.
    """
    whole: ir.Value | None = None
    for mask in masks:
        made = _added(op, mask, whole, q, guarded=guarded)
        if isinstance(made, NoMatch):
            return made
        whole = _inferred(op, made)
    if whole is None or _is_sized(whole, q, k):
        return whole
    return _sized(op, whole, q, k)


def _added(
    op: Builder, mask: Mask, before: ir.Value | None, q: Operand, *, guarded: bool
) -> ir.Value | NoMatch:
    """Return the sum of the mask and what there was before it."""
    assert q.dtype is not None
    if isinstance(mask, Added):
        made = _softened(op, mask.value, guarded=guarded)
        if mask.shape is not None and not isinstance(made, NoMatch):
            made = op.Reshape(made, mask.shape)
        if isinstance(made, NoMatch) or before is None:
            return made
        return op.Add(before, made)  # type: ignore[no-any-return]
    fill = _soft(mask.fill, q.dtype, guarded=guarded)
    if isinstance(fill, NoMatch):
        return fill
    number = np.asarray(fill, q.dtype.numpy())
    kept = np.zeros((), q.dtype.numpy()) if before is None else before
    branches = (kept, number) if mask.keeps else (number, kept)
    return op.Where(mask.condition, *branches)  # type: ignore[no-any-return]


def _softened(op: Builder, value: ir.Value, *, guarded: bool) -> ir.Value | NoMatch:
    """Replace the least finite number in a mask that is chosen by a condition."""
    node = value.producer()
    if node is None or node.op_type != "Where" or value.dtype is None:
        array = as_array(value)
        if array is not None and not guarded and (array < -_ABSORBS).all(axis=-1).any():
            return NoMatch("a row is masked whole")
        return value
    condition, *branches = node.inputs
    chosen: list[object] = []
    for branch in branches:
        number = scalar_of(branch)
        if number is None or number > -_ABSORBS:
            chosen.append(branch)
            continue
        fill = _soft(number, value.dtype, guarded=guarded)
        if isinstance(fill, NoMatch):
            return fill
        chosen.append(branch if fill == number else np.asarray(fill, value.dtype.numpy()))
    if all(mine is theirs for mine, theirs in zip(chosen, branches, strict=True)):
        return value
    return op.Where(condition, *chosen)  # type: ignore[no-any-return]


def _soft(fill: float, dtype: ir.DataType, *, guarded: bool) -> float | NoMatch:
    """Return the number to use for `fill`; see the module's docstring."""
    if fill == -np.inf:
        return fill if guarded else NoMatch("a row masked whole would give NaN")
    if fill > -_ABSORBS or dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return NoMatch("what is masked is not far enough below the scores")
    least = float(np.finfo(dtype.numpy()).min)
    return least / 2 if fill <= least * 0.99 else fill


def _inferred(op: Builder, value: ir.Value) -> ir.Value:
    """Let the shape of a value that was just built be known."""
    node = value.producer()
    if node is not None and node.graph is None:
        for new in op.nodes:
            if any(output.shape is None for output in new.outputs):
                infer_node(new, op.opset_imports)
    return value


def _is_sized(mask: ir.Value, q: Operand, k: Operand) -> bool:
    """Whether a mask has a row for each query and a column for each key, as kernels want it."""
    wanted = _sizes(q, k)
    if mask.shape is None or len(mask.shape) < 2 or wanted is None:
        return False
    return all(map(same_dim, mask.shape.dims[-2:], wanted))


def _sizes(q: Operand, k: Operand) -> tuple[Size, Size] | None:
    return None if q.dims is None or k.dims is None else (q.dims[2], k.dims[2])


def _sized(op: Builder, mask: ir.Value, q: Operand, k: Operand) -> ir.Value:
    ones = np.array([1, 1])
    shape = op.Concat(ones, _length(op, q), _length(op, k), axis=0)
    return op.Expand(mask, shape)  # type: ignore[no-any-return]


def _length(op: Builder, x: Operand) -> ir.Value:
    """Ask for the third size, below a Transpose: whoever fuses that finds no other use of it."""
    node = x.value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        axis = node.attributes["perm"].as_ints()[2]
        return op.Shape(node.inputs[0], start=axis, end=axis + 1)  # type: ignore[no-any-return]
    return op.Shape(x, start=2, end=3)  # type: ignore[no-any-return]
