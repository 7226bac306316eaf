# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions and BatchNormalization fold into the linear operator beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.channels import IDENTITY, Affine, Channels, affine_of, batch_norm_trains
from burnish.passes.fuse.conv.branches import merge_branches
from burnish.passes.fuse.linear import LINEAR, linear_of
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

_AFFINE = ("Add", "Sub", "Mul", "Div")
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


def _affine(op: Any, x: Any, c: Any, *, shared: bool = False) -> Any:
    """Pattern of an affine function of x that is bound as `affine`."""
    return op.either(
        op.one_of(*_AFFINE)(x, c, _bind="affine", _shared=shared),
        op.Sub(c, x, _bind="affine", _shared=shared),
    )


# --- after -------------------------------------------------------------------------------------


@rule(opset=(7, None))
def fold_affine_after(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold c * (W x + b) into (c W) x + c b, and likewise for Add, Sub, Div."""
    y = op.one_of(*_WITH_BIAS)(x, _more=True, _bind="linear")
    return op.one_of(*_AFFINE)(y, c, _bind="affine")


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


# --- before ------------------------------------------------------------------------------------


@rule(opset=(7, None))
def fold_affine_before(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold W (c * x) + b into (W c) x + b; Add and Sub only where there is no padding."""
    return op.one_of(*LINEAR)(_affine(op, x, c, shared=True), _more=True, _bind="linear")


@fold_affine_before.also
def _(op: Any, x: Any, w: Any, b: Any = const(), c: Any = const()) -> Any:
    return op.Add(op.MatMul(_affine(op, x, c, shared=True), w, _bind="linear"), b)


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
    if _widens(before, x, read.inputs):
        return NoMatch("the constant may broadcast it")
    return read.fold(op, x, before=before)


fold_batch_norm_before.rewrite(_before)


def _widens(affine: Affine, x: Operand, channels: Channels) -> bool:
    """Whether a constant might make one channel of `x` many, or give it more axes."""
    if x.dims is None or len(x.dims) != channels.rank:
        return True
    if max(affine.scale.size, affine.shift.size) == 1:
        return False
    return x.dims[-channels.from_end] != channels.size


def _may_fold(user: ir.Node, index: int) -> bool:
    return user.op_type in LINEAR and user.domain == "" and index == 0


@rule(opset=(7, None))
def fold_scale_past_shift(op: Any, x: Any, a: Any = const(), c: Any = const()) -> Any:
    """Fold W (a * x + c) + b into (W a) (x + c / a) + b: padding stops a shift, not a scale."""
    scaled = op.one_of("Mul", "Div")(x, a, _bind="scale")
    shifted = op.one_of("Add", "Sub")(scaled, c, _bind="shift")
    return op.one_of(*LINEAR)(shifted, _more=True, _bind="linear")


@fold_scale_past_shift.rewrite
def _(
    op: Builder, x: Operand, a: Operand, linear: ir.Node, scale: ir.Node, shift: ir.Node
) -> Replacement:
    read = linear_of(op, linear)
    if not read:
        return read
    inner = affine_of(op, scale, x.value, read.inputs)
    outer = affine_of(op, shift, scale.outputs[0], read.inputs)
    if not inner:
        return inner
    if not outer:
        return outer
    if _widens(inner, x, read.inputs) or _widens(outer, x, read.inputs):
        return NoMatch("the constant may broadcast it")
    assert a.array is not None
    with np.errstate(all="ignore"):
        moved = rounded(outer.shift / inner.scale, a.array.dtype)
    if isinstance(moved, NoMatch):
        return moved
    ones = (1,) * (read.inputs.from_end - 1)
    added = op.Add(x, moved.reshape(-1, *ones))
    return read.fold(op, added, before=Affine(inner.scale, IDENTITY.shift))


# --- among themselves --------------------------------------------------------------------------


@rule(opset=(7, None))
def merge_affines(op: Any, x: Any, a: Any = const(), b: Any = const()) -> Any:
    """Merge b * (a * x) into (a b) * x, and likewise for Add, Sub, Div."""
    return op.one_of("Mul", "Div")(op.one_of("Mul", "Div")(x, a, _bind="first"), b, _bind="last")


@merge_affines.also
def _(op: Any, x: Any, a: Any = const(), b: Any = const()) -> Any:
    return op.one_of("Add", "Sub")(op.one_of("Add", "Sub")(x, a, _bind="first"), b, _bind="last")


@merge_affines.also
def _(op: Any, x: Any, a: Any = const(), b: Any = const(), c: Any = const()) -> Any:
    y = op.one_of("Mul", "Div")(x, a, _bind="first")
    y = op.one_of("Add", "Sub")(y, c, _bind="middle")
    return op.one_of("Mul", "Div")(y, b, _bind="last")


@merge_affines.rewrite
def _(
    op: Builder,
    x: Operand,
    a: Operand,
    b: Operand,
    c: Operand | None,
    first: ir.Node,
    middle: ir.Node | None,
    last: ir.Node,
) -> Replacement:
    steps = [node for node in (first, middle, last) if node is not None]
    whole, value = IDENTITY, x.value
    for node in steps:
        step = affine_of(op, node, value)
        if not step:
            return step
        whole, value = step.after(whole), node.outputs[0]
    constants = [np.asarray(item.array) for item in (a, b, c) if item is not None]
    if max(whole.scale.size, whole.shift.size) > max(array.size for array in constants):
        return NoMatch("the merged constant would be larger")
    dtype = constants[0].dtype
    scale, shift = rounded(whole.scale, dtype, factor=True), rounded(whole.shift, dtype)
    if isinstance(scale, NoMatch):
        return scale
    if isinstance(shift, NoMatch):
        return shift
    y: Operand | ir.Value = op.Mul(x, scale) if first.op_type in ("Mul", "Div") else x
    return op.Add(y, shift) if (middle or first).op_type in ("Add", "Sub") else y


@rule(opset=(7, None))
def fold_affine_into_batch_norm(op: Any, x: Any, c: Any = const()) -> Any:
    """Fold c * BatchNormalization(x) into one, and likewise for Add, Sub, Div."""
    return op.one_of(*_AFFINE)(
        op.BatchNormalization(x, _more=True, _bind="norm"), c, _bind="affine"
    )


@fold_affine_into_batch_norm.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.Sub(c, op.BatchNormalization(x, _more=True, _bind="norm"), _bind="affine")


@fold_affine_into_batch_norm.also
def _(op: Any, x: Any, c: Any = const()) -> Any:
    return op.BatchNormalization(_affine(op, x, c), _more=True, _bind="norm")


@fold_affine_into_batch_norm.rewrite
def _(op: Builder, x: Operand, norm: ir.Node, affine: ir.Node) -> Replacement:
    reason = batch_norm_trains(op, norm)
    if reason is not None:
        return NoMatch(reason)
    parameters = [as_array(value) for value in norm.inputs[1:5]]
    if x.rank is None or any(array is None for array in parameters):
        return NoMatch("the rank or a parameter of BatchNormalization is unknown")
    gamma, beta, mean, _ = (array for array in parameters if array is not None)
    channels = Channels(gamma.size, x.rank - 1, x.rank)
    behind = affine.inputs[0] is norm.outputs[0] or affine.inputs[1] is norm.outputs[0]
    read = affine_of(op, affine, norm.outputs[0] if behind else x.value, channels)
    if not read:
        return read
    if not behind and _widens(read, x, channels):
        return NoMatch("the constant may broadcast it")
    shift: np.ndarray | NoMatch = beta
    centre: np.ndarray | NoMatch = mean
    with np.errstate(all="ignore"):
        scale = rounded(gamma * read.scale, gamma.dtype, factor=True)
        if behind:
            shift = rounded(beta * read.scale + read.shift, beta.dtype)
        else:
            centre = rounded((mean - read.shift) / read.scale, mean.dtype)
    for array in (scale, shift, centre):
        if isinstance(array, NoMatch):
            return array
    return op.like(norm, x, scale, shift, centre, norm.inputs[4])


@dataclass(frozen=True)
class FuseAffine(RulePass):
    """Fold constant scales and shifts, BatchNormalization too, into Conv, Gemm and their like.

    Branches that are added merge here too: a norm may stand behind each, and behind their sum.
    """

    name: ClassVar[str] = "fuse-affine"
    rules: ClassVar[tuple[Rule, ...]] = (
        fold_affine_after,
        fold_batch_norm_after,
        fold_affine_before,
        fold_batch_norm_before,
        fold_scale_past_shift,
        fold_affine_into_batch_norm,
        merge_affines,
        merge_branches,
    )
