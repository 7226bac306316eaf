# SPDX-License-Identifier: Apache-2.0
"""Means of means, which exporters write axis by axis: one rounding more, so not in `cleanup`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import has_reference, ints_of
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
_SINCE = dict.fromkeys(_REDUCTIONS, 18) | {"ReduceSum": 13}
"""Operator sets from which on the axes are an input."""


@rule(opset=(13, None))
def reduce_reduce(op: Any, x: Any) -> Any:
    """ReduceMean(ReduceMean(x, axes), others) -> ReduceMean(x, axes of both); Max, Min, Sum too."""
    inner = op.one_of(*_REDUCTIONS)(x, _more=True, _bind="inner")
    return op.one_of(*_REDUCTIONS)(inner, _more=True, _bind="outer")


@reduce_reduce.rewrite
def _(op: Builder, x: Operand, inner: ir.Node, outer: ir.Node) -> Replacement:
    if inner.op_type != outer.op_type or has_reference(inner) or has_reference(outer):
        return NoMatch("not of one kind")
    if outer.op_type == "ReduceMean" and not (x.dtype and x.dtype.is_floating_point()):
        return NoMatch("the first mean is rounded to whole numbers")
    kept = op.attribute(inner, "keepdims"), op.attribute(outer, "keepdims")
    first, second = ints_of(inner, "axes", 1), ints_of(outer, "axes", 1)
    if x.rank is None or not first or not second:
        return NoMatch("all axes, or the axes or the rank are not known")
    done = {axis % x.rank for axis in first}
    left = [axis for axis in range(x.rank) if kept[0] or axis not in done]
    axes = sorted(done | {left[axis % len(left)] for axis in second})
    if kept[0] != kept[1]:
        return NoMatch("one keeps the axes, and the other does not")
    if op.opset_imports.get("", 1) < _SINCE[outer.op_type]:
        return op.node(outer.op_type, [x], {"axes": axes, "keepdims": kept[0]})
    return op.node(outer.op_type, [x, np.array(axes)], {"keepdims": kept[0]})
