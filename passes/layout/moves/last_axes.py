# SPDX-License-Identifier: Apache-2.0
"""Operators on the last axes, which have to stay: the others move."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.operands import on_operands, stored_outputs
from burnish.passes.layout.moves.permutation import Perm
from burnish.passes.rule import Builder, NoMatch


def move_matmul(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move MatMul where its last two axes stay; batches move."""
    left, right = node.inputs
    rank = len(perm)
    if any(value is None or value.shape is None for value in (left, right, *node.outputs)):
        return NoMatch("the rank of an operand is unknown")
    ranks = [len(v.shape) for v in (left, right, node.outputs[0]) if v is not None and v.shape]
    if ranks == [rank, 2, rank] and perm[-1] == rank - 1:
        return Move({0: perm}, {0: perm})
    if ranks == [rank] * 3 and perm[-2:] == (rank - 2, rank - 1):
        return on_operands(node, perm, [0, 1])
    return NoMatch("the axes of the product would move")


def move_normalization(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move LayerNormalization where what it normalizes stays last."""
    axis = op.attribute(node, "axis") % len(perm)
    if perm[axis:] != tuple(range(axis, len(perm))):
        return NoMatch("the axes it normalizes would move")
    scales = [value.shape for value in node.inputs[1:] if value is not None]
    if any(shape is None or len(shape) > len(perm) - axis for shape in scales):
        return NoMatch("what it scales by has other axes too")
    if len(stored_outputs(node, perm)) != 1:
        return NoMatch("it has several outputs")
    return Move({0: perm}, {0: perm}, attributes={"axis": axis})
