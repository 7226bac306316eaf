# SPDX-License-Identifier: Apache-2.0
"""Masks of an attention: what is added to its scores, or put in their place, before the softmax.

Every spelling becomes one mask that is added. What is "minus infinity" there matters in rows that
are masked whole: of scores alike, a softmax makes equal weights; of scores of minus infinity it
makes NaN, which exporters turn into 0 behind it. A fused attention gives 0 for every score at or
below the least finite number. So that least number becomes half of it: still minus infinity to
`exp`, and equal weights where there is nothing else. Where every query certainly sees
a key, as under a causal mask, none of this matters.

In float16 nothing is far enough below everything: scores keep some of their digits beside -65504.
What a row masked whole gives there depends on the order of roundings; it is 0 once fused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import Size, same_dim
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.fuse.attention.mask_kinds import Added, Floored, Mask, Replaced
from burnish.passes.fuse.attention.positions import condition_of, negated, unmasked
from burnish.passes.fuse.forms import Form, sees_some
from burnish.passes.rule import Builder, NoMatch, Operand
from burnish.passes.shapes import infer_node

# Far enough below every score that it gets no weight beside one that is not masked.
_LOWEST = {ir.DataType.FLOAT16: -6e4}
_LOWEST_DEFAULT = -1e4
# So far below that the score itself is lost when this is added to it.
_FAR = {ir.DataType.FLOAT16: -6e4}
_FAR_DEFAULT = -1e30
# The least finite numbers, to be halved.
_LEAST = {
    ir.DataType.FLOAT: float(np.finfo(np.float32).min),
    ir.DataType.DOUBLE: float(np.finfo(np.float64).min),
    ir.DataType.BFLOAT16: -3.3895313892515355e38,
}


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
            made = None if whole is None else _floored(op, whole, mask, q)
            if made is None:
                continue  # of the scores alone, none is that low
        else:
            held = guarded or any(isinstance(later, Floored) for later in masks[index:])
            made = _added(op, mask, whole, q, guarded=held, flat=flat)
        if isinstance(made, NoMatch):
            return made
        whole = _inferred(op, made)
    if whole is None or _is_sized(whole, q, k):
        return whole
    return _sized(op, whole, q, k)


def _added(
    op: Builder,
    mask: Added | Replaced,
    before: ir.Value | None,
    q: Operand,
    *,
    guarded: bool,
    flat: bool,
) -> ir.Value | NoMatch:
    """Return the sum of the mask and what there was before it."""
    assert q.dtype is not None
    if isinstance(mask, Added):
        made = _softened(op, mask, guarded=guarded)
        if isinstance(made, NoMatch):
            return made
        if mask.factor != 1:
            made = op.Mul(made, _number(mask.factor, mask.value.dtype))
        if mask.value.dtype != q.dtype:
            made = op.Cast(made, to=q.dtype)
        if mask.shape is not None:
            made = op.Reshape(made, _four_axes(op, mask.value, mask.shape))
        if mask.windows:
            made = _for_each_image(op, made, mask, q)
        if flat and _rank(mask.value) == 3:
            made = op.Unsqueeze(made, np.array([1]))
        return made if before is None else op.Add(before, made)
    fill = _soft(mask.fill, q.dtype, guarded=guarded)
    if isinstance(fill, NoMatch):
        return fill
    # What replaces the scores must, once it is added to them, still be alike for all of them.
    number = _number(min(fill, _far(q.dtype)), q.dtype)
    kept = np.zeros((), q.dtype.numpy()) if before is None else before
    branches = (kept, number) if mask.keeps else (number, kept)
    condition = mask.condition
    if flat and _rank(condition) == 3:
        condition = op.Unsqueeze(condition, np.array([1]))
    return op.Where(condition, *branches)  # type: ignore[no-any-return]


def _floored(op: Builder, whole: ir.Value, mask: Floored, q: Operand) -> ir.Value | NoMatch:
    """Hold the sum of all masks above minus infinity; where it is chosen, choose other numbers."""
    assert q.dtype is not None
    low = _soft(mask.low, q.dtype, guarded=True)
    if isinstance(low, NoMatch):
        return low
    number, node = _number(low, q.dtype), whole.producer()
    if node is None or node.op_type != "Where":
        return op.Max(whole, number)  # type: ignore[no-any-return]
    found = [scalar_of(branch) for branch in node.inputs[1:]]
    if any(branch is None for branch in found):
        return op.Max(whole, number)  # type: ignore[no-any-return]
    if all(branch is not None and branch >= number for branch in found):
        return whole
    chosen = (_number(max(branch or 0.0, low), q.dtype) for branch in found)
    return op.Where(node.inputs[0], *chosen)  # type: ignore[no-any-return]


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


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


def _number(number: float, dtype: ir.DataType | None) -> np.ndarray:
    assert dtype is not None
    with np.errstate(over="ignore"):  # what is out of range in float16 is minus infinity there
        return np.asarray(number).astype(dtype.numpy())


def _softened(op: Builder, mask: Added, *, guarded: bool) -> ir.Value | NoMatch:
    """Replace the least finite number in a mask that is chosen by a condition."""
    value, sign = mask.value, math.copysign(1, mask.factor)
    node = value.producer()
    if value.dtype is None:
        return NoMatch("the type of the mask is unknown")
    least = _far(value.dtype)
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
        fill = _soft(sign * number, value.dtype, guarded=guarded)
        if isinstance(fill, NoMatch):
            return fill
        same = sign * fill == number
        chosen.append(branch if same else np.asarray(sign * fill, value.dtype.numpy()))
    if all(mine is theirs for mine, theirs in zip(chosen, branches, strict=True)):
        return value
    return op.Where(condition, *chosen)  # type: ignore[no-any-return]


def lowest(dtype: ir.DataType) -> float:
    """Return the number at or below which a masked score gets no weight at all."""
    return _LOWEST.get(dtype, _LOWEST_DEFAULT)


def _far(dtype: ir.DataType) -> float:
    return _FAR.get(dtype, _FAR_DEFAULT)


def _soft(fill: float, dtype: ir.DataType, *, guarded: bool) -> float | NoMatch:
    """Return the number to use for `fill`; see the module's docstring."""
    if fill == -np.inf:
        return fill if guarded else NoMatch("a row masked whole would give NaN")
    if fill > lowest(dtype):
        return NoMatch("what is masked is not far enough below the scores")
    least = _LEAST.get(dtype, -np.inf)
    return least / 2 if fill <= least * 0.99 else fill


def _leaves_some(masks: Sequence[Mask], q: Operand, k: Operand) -> bool:
    """Whether every query certainly sees a key."""
    sizes, seen = _sizes(q, k), frozenset[Form]()
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
