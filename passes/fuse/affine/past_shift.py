# SPDX-License-Identifier: Apache-2.0
"""A scale passes the shift behind it, which padding keeps out of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.channels import IDENTITY, Affine, affine_of, widens
from burnish.passes.fuse.linear.linear import linear_of
from burnish.passes.fuse.linear.weights import LINEAR
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


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
    if widens(inner, x, read.inputs) or widens(outer, x, read.inputs):
        return NoMatch("the constant may broadcast it")
    assert a.array is not None
    with np.errstate(all="ignore"):
        moved = rounded(outer.shift / inner.scale, a.array.dtype)
    if isinstance(moved, NoMatch):
        return moved
    ones = (1,) * (read.inputs.from_end - 1)
    added = op.Add(x, moved.reshape(-1, *ones))
    return read.fold(op, added, before=Affine(inner.scale, IDENTITY.shift))
