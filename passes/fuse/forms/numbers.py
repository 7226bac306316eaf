# SPDX-License-Identifier: Apache-2.0
"""Whole numbers read as linear forms of the indices of their axes, and of sizes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from burnish.passes.cleanup.partial.partial import Dim
from burnish.passes.constant import scalar_of
from burnish.passes.fuse.attention.heads import elements_of
from burnish.passes.fuse.forms.broadcast import kept
from burnish.passes.fuse.forms.constants import constant_form, fill_of, small_array
from burnish.passes.fuse.forms.form import Form, size_form
from burnish.passes.fuse.forms.moves import MOVING, moved, moves_of

DEPTH = 24
"""Operators that are read between a mask and the positions it is made of."""


def form_of(value: ir.Value | None, depth: int = DEPTH) -> Form | None:
    """Read a value of whole numbers as a linear form of its indices and of sizes."""
    if value is None or depth == 0:
        return None
    array = small_array(value)
    if array is not None:
        return constant_form(array)
    node = value.producer()
    if node is None or node.domain != "":
        return None
    first, second, *_ = (*node.inputs, None, None)
    match node.op_type:
        case "Range":
            start, step = form_of(first, depth - 1), scalar_of(node.inputs[2])
            if start is None or step is None or not step.is_integer():
                return None
            return start.plus(Form.of({-1: int(step)}))
        case "CumSum":
            return _counted(node, depth)
        case "ConstantOfShape":
            fill = fill_of(node)
            return Form(constant=int(fill)) if fill.is_integer() else None
        case "Add" | "Sub":
            return sum_of(node, first, second, 1 if node.op_type == "Add" else -1, depth)
        case "Mul":
            for factor, other in ((first, second), (second, first)):
                number = scalar_of(factor)
                if number is not None and number.is_integer():
                    form = form_of(other, depth - 1)
                    return None if form is None else Form().plus(form, int(number))
            return None
        case "Neg":
            inner = form_of(first, depth - 1)
            return None if inner is None else Form().plus(inner, -1)
        case "Cast" | "Identity":
            return form_of(first, depth - 1)
    size = elements_of(value) if _is_single(value) else None
    if size is not None and size[0] is not None:
        return _element_form(size[0])
    inner = form_of(first, depth - 1) if node.op_type in MOVING else None
    (form,) = (inner is not None and moved({inner}, moves_of(node, reader(depth)))) or (None,)
    return form


def reader(depth: int) -> Callable[[ir.Value], Form | None]:
    """Return `form_of` for what an operator at this depth reads."""
    return lambda value: form_of(value, depth - 1)


def sum_of(
    node: ir.Node, a: ir.Value | None, b: ir.Value | None, times: int, depth: int
) -> Form | None:
    """Read a + times * b, which the node broadcasts."""
    left = kept(node, a, form_of(a, depth - 1))
    right = None if left is None else kept(node, b, form_of(b, depth - 1))
    return None if left is None or right is None else left.plus(right, times)


def _element_form(element: object) -> Form | None:
    if isinstance(element, Dim) and element.value.shape is not None:
        return size_form(element.value.shape[element.axis])
    return Form(constant=element) if isinstance(element, int) else None


def _counted(node: ir.Node, depth: int) -> Form | None:
    """Read CumSum of a constant number as the position along its axis."""
    each, axis = form_of(node.inputs[0], depth - 1), scalar_of(node.inputs[1])
    rank = len(node.outputs[0].shape or ())
    if each is None or each.terms or axis is None or not rank:
        return None
    if any(node.attributes.get_int(flag, 0) for flag in ("exclusive", "reverse")):
        return None
    along = int(axis) if axis < 0 else int(axis) - rank
    return Form.of({along: each.constant}, each.constant)


def _is_single(value: ir.Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape.dims)
