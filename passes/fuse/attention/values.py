# SPDX-License-Identifier: Apache-2.0
"""Attentions of the same weights on two values are one, on the values side by side.

So exporters write differential attention, whose heads come in pairs that share their values, where
the operator they write it with takes values of the size of the keys only.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.attention.heads import SWAP_HEADS, swapped
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_BETWEEN = ("Cast", "Where")  # what may stand between a softmax and its product
_ON_THE_WAY = ("Softmax", *_BETWEEN)
_LAST = (-1, 3)


@rule(opset=(13, None))
def values_side_by_side(op: Any, w: Any, a: Any, b: Any) -> Any:
    """Concat(w a, w b) -> w Concat(a, b) along the last axis, where w is what a softmax gives."""
    return op.Concat(op.MatMul(w, a), op.MatMul(w, b), axis=lambda axis: axis in _LAST)


@values_side_by_side.also
def _(op: Any, w: Any, a: Any, b: Any) -> Any:
    left = op.Transpose(op.MatMul(w, a), perm=list(SWAP_HEADS))
    right = op.Transpose(op.MatMul(w, b), perm=list(SWAP_HEADS), _bind="swap")
    return op.Concat(left, right, axis=lambda axis: axis in _LAST)


@values_side_by_side.rewrite
def _(op: Builder, w: Operand, a: Operand, b: Operand, swap: ir.Node | None) -> Replacement:
    if not _is_weights(w.value):
        return NoMatch("what is multiplied is not what a softmax gives")
    if w.uses != 2:
        return NoMatch("the weights are used elsewhere too")
    if a.dims is None or b.dims is None or len(a.dims) != 4 or len(b.dims) != 4:
        return NoMatch("the values are not of rank 4")
    if not all(map(same_dim, a.dims[:2], b.dims[:2])):
        return NoMatch("the values are not known to be of the same batches and heads")
    y = op.MatMul(w, op.Concat(a, b, axis=-1))
    return y if swap is None else swapped(op, y)


def _is_weights(value: ir.Value) -> bool:
    """Whether a value is what a softmax gives, perhaps guarded and cast behind it."""
    node = value.producer()
    for _ in range(len(_BETWEEN) + 1):
        if node is None or node.op_type == "Softmax":
            return node is not None
        if node.op_type not in _BETWEEN:
            return False
        made = [item.producer() for item in node.inputs if item is not None]
        node = next((item for item in made if item and item.op_type in _ON_THE_WAY), None)
    return False
