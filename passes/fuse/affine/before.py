# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions and BatchNormalization go into the linear operator behind them.

That is, W (a x + c) + b = (W a) x + (b + W c).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.fuse.affine.pattern import affine_pattern
from burnish.passes.fuse.channels import affine_of, widens
from burnish.passes.fuse.linear.linear import linear_of
from burnish.passes.fuse.linear.weights import LINEAR
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(7, None))
def fold_affine_before(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold W (c * x) + b into (W c) x + b; Add and Sub only where there is no padding."""
    return op.one_of(*LINEAR)(affine_pattern(op, x, c, shared=True), _more=True, _bind="linear")


@fold_affine_before.also
def _(op: Any, x: Any, w: Any, b: Any = const(), c: Any = const()) -> Any:
    return op.Add(op.MatMul(affine_pattern(op, x, c, shared=True), w, _bind="linear"), b)


@rule(opset=(7, None))
def fold_batch_norm_before(op: Any, x: Any) -> Any:
    """Fold W BatchNormalization(x) + b into W' x + b' where there is no padding."""
    x = op.BatchNormalization(x, _more=True, _bind="affine", _shared=True)
    return op.one_of(*LINEAR)(x, _more=True, _bind="linear")


@fold_batch_norm_before.also
def _(op: Any, x: Any, w: Any, b: Any = const()) -> Any:
    x = op.BatchNormalization(x, _more=True, _bind="affine", _shared=True)
    return op.Add(op.MatMul(x, w, _bind="linear"), b)


@fold_affine_before.rewrite
def _before(
    op: Builder, x: Operand, b: Operand | None, linear: ir.Node, affine: ir.Node
) -> Replacement:
    result = affine.outputs[0]
    if result.is_graph_output() or not all(_may_fold(*use) for use in result.uses()):
        return NoMatch("what is folded stays, because others use it too")
    read = linear_of(op, linear, added=b)
    if not read:
        return read
    before = affine_of(op, affine, x.value, read.inputs)
    if not before:
        return before
    if widens(before, x, read.inputs):
        return NoMatch("the constant may broadcast it")
    return read.fold(op, x, before=before)


fold_batch_norm_before.rewrite(_before)


def _may_fold(user: ir.Node, index: int) -> bool:
    return user.op_type in LINEAR and user.domain == "" and index == 0
