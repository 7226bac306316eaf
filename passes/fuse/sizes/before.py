# SPDX-License-Identifier: Apache-2.0
"""Sizes asked of what lies before a Transpose or an Attention, which keep them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def size_before_transpose(op: Any, x: Any, index: Any = const()) -> Any:
    """Gather(Shape(Transpose(x)), i) -> Gather(Shape(x), perm[i])."""
    moved = op.Transpose(x, _bind="transpose", _shared=True)
    return op.Gather(op.Shape(moved, start=0, end=None, _shared=True), index, axis=0)


@size_before_transpose.rewrite
def _(op: Builder, x: Operand, index: Operand, transpose: ir.Node) -> Replacement:
    perm = op.attribute(transpose, "perm")
    axis = None if perm is None else _one(index, len(perm))
    if axis is None or index.array is None:
        return NoMatch("not one size")
    return op.Gather(op.Shape(x), np.full(index.array.shape, perm[axis]))


@rule(opset=(23, None))
def size_before_attention(op: Any, q: Any, k: Any, v: Any, index: Any = const()) -> Any:
    """Gather(Shape(Attention(q, k, v)), i) -> Gather(Shape(q), i), or of v for the last axis."""
    y = op.Attention(q, k, v, _more=True, _shared=True)
    return op.Gather(op.Shape(y, start=0, end=None, _shared=True), index, axis=0)


@size_before_attention.rewrite
def _(op: Builder, q: Operand, v: Operand, index: Operand) -> Replacement:
    axis = _one(index, 4) if q.rank == 4 else None
    if axis is None or index.array is None:
        return NoMatch("not one size of four")
    return op.Gather(op.Shape(q if axis < 3 else v), np.full(index.array.shape, axis))


def _one(index: Operand, rank: int) -> int | None:
    """Return the one axis that a Gather from a shape picks, counted from 0."""
    array = index.array
    return None if array is None or array.size != 1 else int(array.item()) % rank
