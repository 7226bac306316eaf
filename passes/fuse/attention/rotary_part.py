# SPDX-License-Identifier: Apache-2.0
"""Rotations that leave a part of each head as it is: partial rotary embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.attention.heads import joined, split
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.fuse.attention.rotation import window
from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(SINCE, None))
def rotary_part(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Concat(RotaryEmbedding(x[:n]), x[n:]) -> RotaryEmbedding of the first n elements of x."""
    turned = op.RotaryEmbedding(op.Slice(x, _more=True, _bind="front"), cos, sin, _bind="inner")
    return op.Concat(turned, op.Slice(x, _more=True, _bind="back"), axis=lambda a: a in (-1, 3))


@rotary_part.also
def _(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    front = op.Reshape(op.Slice(x, _more=True, _bind="front"), _more=True)
    turned = op.Reshape(op.RotaryEmbedding(front, cos, sin, _bind="inner"), _more=True)
    return op.Concat(turned, op.Slice(x, _more=True, _bind="back"), axis=lambda a: a in (-1, 3))


@rotary_part.rewrite
def _(
    op: Builder,
    x: Operand,
    cos: Operand,
    sin: Operand,
    front: ir.Node,
    back: ir.Node,
    inner: ir.Node,
) -> Replacement:
    if x.dims is None or len(x.dims) != 4 or not isinstance(x.dims[3], int):
        return NoMatch("what is rotated is not of rank 4, or its size is unknown")
    size, heads = x.dims[3], op.attribute(inner, "num_heads")
    turned, left = window(front, 4, size), window(back, 4, size)
    if turned is None or left is None or op.attribute(inner, "rotary_embedding_dim"):
        return NoMatch("the slices are not the two parts")
    begin, middle, _ = turned
    end = left[1]
    if left[0] != middle or turned[2] != 1 or left[2] != 1:
        return NoMatch("the slices are not the two parts")
    whole = x.value
    if (begin, end) != (0, size):  # of x, they are parts of a part
        whole = inferred(op, op.Slice(x, np.array([begin]), np.array([end]), np.array([3])))
    count = middle - begin
    if not heads:
        return op.like(inner, whole, cos, sin, rotary_embedding_dim=count)
    if x.dims[2] != heads:
        return NoMatch("the heads are not the third axis")
    y = op.like(inner, joined(op, whole), cos, sin, rotary_embedding_dim=count)
    return split(op, y, heads)
