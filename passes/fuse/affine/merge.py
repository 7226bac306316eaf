# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions in a row merge into one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.channels import IDENTITY, affine_of
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


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
