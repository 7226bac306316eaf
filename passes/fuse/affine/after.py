# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions and BatchNormalization go into the linear operator before them.

That is, a (W x + b) + c = (a W) x + (a b + c).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.fuse.affine.pattern import AFFINE
from burnish.passes.fuse.channels import Channels, affine_of
from burnish.passes.fuse.linear.linear import linear_of
from burnish.passes.fuse.linear.weights import LINEAR
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


@rule(opset=(7, None))
def fold_affine_after(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold c * (W x + b) into (c W) x + c b, and likewise for Add, Sub, Div."""
    y = op.one_of(*_WITH_BIAS)(x, _more=True, _bind="linear")
    return op.one_of(*AFFINE)(y, c, _bind="affine")


@fold_affine_after.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.Sub(c, op.one_of(*_WITH_BIAS)(x, _more=True, _bind="linear"), _bind="affine")


@fold_affine_after.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.one_of("Mul", "Div")(op.MatMul(x, _more=True, _bind="linear"), c, _bind="affine")


@fold_affine_after.also
def _(op: Any, x: Any, b: Any = const(), c: Any = const()) -> Any:
    y = op.Add(op.MatMul(x, _more=True, _bind="linear"), b, _bind="biased")
    return op.one_of("Mul", "Div")(y, c, _bind="affine")


@fold_affine_after.also
def _(op: Any, x: Any, b: Any = const(), c: Any = const()) -> Any:
    y = op.Add(op.MatMul(x, _more=True, _bind="linear"), b, _bind="biased")
    return op.Sub(c, y, _bind="affine")


@rule(opset=(7, None))
def fold_batch_norm_after(op: Any, x: Any) -> Any:
    """Fold BatchNormalization(W x + b), of its rows too, into W' x + b'."""
    y = op.one_of(*LINEAR)(x, _more=True, _bind="linear")
    return op.BatchNormalization(y, _more=True, _bind="affine")


@fold_batch_norm_after.also
def _(op: Any, x: Any, b: Any = const()) -> Any:
    y = op.Add(op.MatMul(x, _more=True, _bind="linear"), b, _bind="biased")
    return op.BatchNormalization(y, _more=True, _bind="affine")


@fold_batch_norm_after.also
def _(op: Any, x: Any, shape: Any) -> Any:
    y = op.Reshape(op.MatMul(x, _more=True, _bind="linear"), shape, _bind="view")
    return op.BatchNormalization(y, _more=True, _bind="affine")


@fold_batch_norm_after.also
def _(op: Any, x: Any, shape: Any, b: Any = const()) -> Any:
    y = op.Add(op.MatMul(x, _more=True, _bind="linear"), b, _bind="biased")
    y = op.Reshape(y, shape, _bind="view")
    return op.BatchNormalization(y, _more=True, _bind="affine")


@fold_affine_after.rewrite
def _after(
    op: Builder,
    x: Operand,
    b: Operand | None,
    linear: ir.Node,
    biased: ir.Node | None,
    affine: ir.Node,
) -> Replacement:
    read = linear_of(op, linear, added=b)
    if not read:
        return read
    after = affine_of(op, affine, (linear if biased is None else biased).outputs[0], read.outputs)
    if not after:
        return after
    return read.fold(op, x, after=after)


@fold_batch_norm_after.rewrite
def _(
    op: Builder,
    x: Operand,
    b: Operand | None,
    shape: Operand | None,
    linear: ir.Node,
    biased: ir.Node | None,
    view: ir.Node | None,
    affine: ir.Node,
) -> Replacement:
    if view is None:
        return _after(op, x, b, linear, biased, affine)
    read = linear_of(op, linear, added=b)
    if not read:
        return read
    rows = Operand(view.outputs[0]).dims
    if rows is None or len(rows) != 2 or rows[1] != read.outputs.size:
        return NoMatch("what views the rows does not keep the channels last")
    after = affine_of(op, affine, view.outputs[0], Channels(read.outputs.size, 1, 2))
    if not after:
        return after
    folded = read.fold(op, x, after=after)
    return folded if isinstance(folded, NoMatch) else op.like(view, folded, shape)
