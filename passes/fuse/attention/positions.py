# SPDX-License-Identifier: Apache-2.0
"""Masks read as conditions on positions: which keys a query sees, by the indices of both.

Exporters build "no later token" of Range, Trilu, CumSum, comparisons and much broadcasting. Each
value is read as a linear form of the indices of its axes and of sizes; a condition is a set of
forms that all have to be at most 0. So every spelling of the same mask is the same set, and a mask
that also depends on data is none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import scalar_of
from burnish.passes.fuse.forms.broadcast import in_place
from burnish.passes.fuse.forms.constants import fill_of, small_array
from burnish.passes.fuse.forms.form import KEY, NEVER, QUERY, Condition, Form
from burnish.passes.fuse.forms.moves import MOVING, moved, moves_of
from burnish.passes.fuse.forms.numbers import DEPTH, form_of, reader, sum_of

# --- masks that are added ----------------------------------------------------------------------


def unmasked(value: ir.Value | None, least: float, depth: int = DEPTH) -> Condition | None:
    """Read where a mask that is added is 0, if it is `least` or less everywhere else."""
    if value is None or depth == 0:
        return None
    array = small_array(value)
    if array is not None:
        masks = ((array == 0) | (array <= least)).all()
        return _constant_condition(array == 0) if masks else None
    node = value.producer()
    if node is None or node.domain != "":
        return None
    first, second, *_ = (*node.inputs, None, None)
    match node.op_type:
        case "Where":
            yes, no = map(_number, node.inputs[1:])
            condition = in_place(node, first, condition_of(first, depth - 1))
            if yes is not None and no is not None and 0 in (yes, no) and min(yes, no) <= least:
                return condition if yes == 0 else negated(condition)
            return None
        case "Mul":
            for factor, other in ((first, second), (second, first)):
                number = _number(factor)
                if number is not None and number > 0:
                    return unmasked(other, least / number, depth - 1)
                if number is not None and -np.inf < number <= least and _is_binary(other):
                    return negated(in_place(node, other, condition_of(other, depth - 1)))
            return None
        case "Trilu":
            number = _number(first)
            if number is not None and number <= least:
                return negated(_triangle(node, depth))
            return None
        case "Add":
            return _union(node, lambda item: unmasked(item, least, depth - 1))
        case "Identity":
            return unmasked(first, least, depth - 1)
    inner = unmasked(first, least, depth - 1) if node.op_type in MOVING else None
    return None if inner is None else moved(inner, moves_of(node, reader(depth)))


def _number(value: ir.Value | None) -> float | None:
    """Return the one number a value holds, in however many elements, or None."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Expand", "Identity"):
        value = node.inputs[0]
        node = None if value is None else value.producer()
    number = scalar_of(value)
    if number is None and node is not None and node.op_type == "ConstantOfShape":
        return fill_of(node)
    return number


# --- conditions --------------------------------------------------------------------------------


def condition_of(value: ir.Value | None, depth: int = DEPTH) -> Condition | None:
    """Read where a boolean is true, or a number is not 0; None where it takes data to know."""
    if value is None or depth == 0:
        return None
    array = small_array(value)
    if array is not None:
        return _constant_condition(array)
    node = value.producer()
    if node is None or node.domain != "":
        return None
    first, second, *_ = (*node.inputs, None, None)
    match node.op_type:
        case "LessOrEqual" | "Less":
            return _at_most(node, first, second, node.op_type == "Less", depth)
        case "GreaterOrEqual" | "Greater":
            return _at_most(node, second, first, node.op_type == "Greater", depth)
        case "And" | "Mul":
            return _union(node, lambda item: condition_of(item, depth - 1))
        case "Not":
            return negated(condition_of(first, depth - 1))
        case "Equal":
            number = scalar_of(second)
            if number != 0 and not (number == 1 and _is_binary(first)):
                return None
            found = in_place(node, first, condition_of(first, depth - 1))
            return found if number else negated(found)
        case "Where":
            chosen = [condition_of(item, depth - 1) for item in node.inputs[1:]]
            inner = in_place(node, first, condition_of(first, depth - 1))
            if chosen == [frozenset(), NEVER]:
                return inner
            return negated(inner) if chosen == [NEVER, frozenset()] else None
        case "Trilu":
            return _triangle(node, depth)
        case "ConstantOfShape":
            return frozenset() if fill_of(node) else NEVER
        case "Cast" | "Identity":
            return condition_of(first, depth - 1)
    inner = condition_of(first, depth - 1) if node.op_type in MOVING else None
    return None if inner is None else moved(inner, moves_of(node, reader(depth)))


def _at_most(
    node: ir.Node, a: ir.Value | None, b: ir.Value | None, strictly: bool, depth: int
) -> Condition | None:
    difference = sum_of(node, a, b, -1, depth)
    if difference is None:
        return None
    return frozenset({difference.plus(Form(constant=int(strictly)))})


def _union(node: ir.Node, read: Callable[[ir.Value | None], Condition | None]) -> Condition | None:
    """Read what holds where all inputs of a node do; not the others where one cannot be read."""
    union: Condition = frozenset()
    for item in node.inputs:
        found = in_place(node, item, read(item))
        if found is None:
            return None
        union |= found
    return union


def negated(condition: Condition | None) -> Condition | None:
    """Turn a condition round, if what it becomes is one again."""
    if condition is None or len(condition) > 1:
        return None
    if not condition:
        return NEVER
    (form,) = condition
    return frozenset() if condition == NEVER else frozenset({Form(constant=1).plus(form, -1)})


def _triangle(node: ir.Node, depth: int) -> Condition | None:
    """Read Trilu: what is not 0 in the lower triangle, or in the upper one."""
    diagonal = Form() if len(node.inputs) < 2 else form_of(node.inputs[1], depth - 1)
    inner = condition_of(node.inputs[0], depth - 1)
    if diagonal is None or inner is None:
        return None
    beyond = KEY.plus(QUERY, -1).plus(diagonal, -1)
    above = node.attributes.get_int("upper", 1)
    return inner | {Form().plus(beyond, -1) if above else beyond}


def _constant_condition(array: np.ndarray) -> Condition | None:
    """Read a constant that is not 0 everywhere, nowhere, or in a triangle."""
    there = array != 0
    if there.all():
        return frozenset()
    if not there.any():
        return NEVER
    if array.ndim < 2 or any(size != 1 for size in array.shape[:-2]):
        return None
    there = there.reshape(array.shape[-2:])
    offset = int(there[0].sum()) - 1  # the diagonal of a lower triangle
    rows, columns = there.shape
    if np.array_equal(there, np.tri(rows, columns, offset, dtype=bool)):
        return frozenset({KEY.plus(QUERY, -1).plus(Form(constant=-offset))})
    seen = _constant_condition(~there) if there[0, -1] and not there[-1, 0] else None
    return negated(seen)


def _is_binary(value: ir.Value | None) -> bool:
    """Whether a value is 1 wherever it is not 0."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Trilu", "Cast", "Expand", "Unsqueeze"):
        inner = node.inputs[0]
        if inner is None or inner.dtype == ir.DataType.BOOL or scalar_of(inner) == 1:
            return inner is not None
        array, node = small_array(inner), inner.producer()
        if array is not None:
            return bool(((array == 0) | (array == 1)).all())
    return node is not None and node.op_type == "ConstantOfShape" and fill_of(node) == 1
