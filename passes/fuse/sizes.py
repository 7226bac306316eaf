# SPDX-License-Identifier: Apache-2.0
"""One spelling for a size: that of the graph input whose axis bears the same name.

Exporters ask the nearest tensor for a size that all tensors along the way share. Such a question
keeps a tensor in the graph that a fusion would make away with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def size_of_input(op: Any, x: Any, index: Any = const()) -> Any:
    """Gather(Shape(x), i) -> Gather(Shape(input), j) where the two axes have the same name."""
    return op.Gather(op.Shape(x, start=0, end=None, _shared=True), index, axis=0, _bind="size")


@size_of_input.also
def _(op: Any, x: Any, first: Any = const(), last: Any = const()) -> Any:
    shape = op.Shape(x, start=0, end=None, _shared=True)
    return op.Slice(shape, first, last, _more=True, _bind="size")


@size_of_input.rewrite
def _(
    op: Builder,
    x: Operand,
    index: Operand | None,
    first: Operand | None,
    last: Operand | None,
    size: ir.Node,
) -> Replacement:
    if x.value.is_graph_input() or x.dims is None or size.graph is None:
        return NoMatch("it is an input already, or its rank is unknown")
    axes = np.arange(len(x.dims))
    if index is not None and index.array is not None:
        picked = axes[index.array]
    elif first is not None and last is not None and len(size.inputs) < 5:
        assert first.array is not None
        assert last.array is not None
        picked = axes[first.array.item() : last.array.item()]
    else:
        return NoMatch("the slice has steps")
    if picked.size != 1:
        return NoMatch("not one size")
    dim = x.dims[int(picked.item())]
    if isinstance(dim, int):
        return op.Identity(op.constant(np.full(picked.shape, dim)))
    for value in size.graph.inputs:
        for axis, other in enumerate(value.shape.dims if value.shape else ()):
            if same_dim(dim, other):
                return op.Gather(op.Shape(value), np.full(picked.shape, axis))
    return NoMatch("no input has an axis of that name")


def _one(index: Operand, rank: int) -> int | None:
    """Return the one axis that a Gather from a shape picks, counted from 0."""
    array = index.array
    return None if array is None or array.size != 1 else int(array.item()) % rank


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


RULES = (size_of_input, size_before_transpose, size_before_attention)
