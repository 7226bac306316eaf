# SPDX-License-Identifier: Apache-2.0
"""What scores are multiplied by: a constant, one for each head, or that of a soft cap.

The scale may stand on the queries, the keys, both, or the product, as Mul or Div.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from burnish.passes.constant import scalar_of
from burnish.passes.fuse.attention.scores import Read, Scores
from burnish.passes.rule import NoMatch

_ONE = 1 + 1e-6  # but for rounding


def unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Take a constant factor off a value."""
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div") or node.domain != "":
        return value, 1.0
    a, b = node.inputs
    for x, c in ((a, b), (b, a)):
        factor = scalar_of(c)
        if (
            x is None
            or factor is None
            or not factor
            or len(x.shape or ()) != len(value.shape or ())
        ):
            continue
        if node.op_type == "Mul":
            return x, factor
        if c is b:
            return x, 1 / factor
    return value, 1.0


def scaled(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores that are multiplied or divided by a number, which may be that of a soft cap."""
    inner, factor = unscaled(node.outputs[0])
    if inner is node.outputs[0]:
        return _scaled_by_head(node, read)
    above = inner.producer()
    if above is not None and above.op_type == "Tanh" and factor > 0:
        return _capped(above, factor, read)
    found = read(inner)
    if not isinstance(found, Scores):
        return found
    if not found.masks and not found.softcap:
        return replace(found, scale=found.scale * factor)
    masks = tuple(mask.scaled(factor) for mask in found.masks)
    # "Minus infinity" may not overflow, which makes another one of it.
    if found.softcap or factor <= 0 or any(abs(mask.factor) > _ONE for mask in masks):
        return NoMatch("the scores are scaled behind a mask")
    return replace(found, scale=found.scale * factor, masks=masks)


def _capped(tanh: ir.Node, cap: float, read: Read) -> Scores | NoMatch:
    assert tanh.inputs[0] is not None
    found = read(tanh.inputs[0])
    if not isinstance(found, Scores):
        return found
    if found.masks or found.softcap or found.shifted or found.factor is not None:
        return NoMatch("the scores are capped behind a mask")
    return replace(found, scale=found.scale * cap, softcap=cap)


def _scaled_by_head(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores that are multiplied by another number for each head."""
    whole = node.outputs[0].shape
    for scores, factor in (node.inputs, node.inputs[::-1]):
        if scores is None or factor is None or factor.shape is None or whole is None:
            continue
        dims = factor.shape.dims
        if node.op_type != "Mul" or not 2 < len(dims) <= len(whole) or dims[-2:] != (1, 1):
            continue
        found = read(scores)
        if not isinstance(found, Scores):
            return found
        if found.masks or found.softcap or found.factor is not None:
            return NoMatch("the scores are scaled behind a mask")
        return replace(found, factor=factor)
    return NoMatch("the scores are multiplied by no constant")
