# SPDX-License-Identifier: Apache-2.0
"""Masks read as conditions on positions: which keys a query sees, by the indices of both.

Exporters build "no later token" of Range, Trilu, CumSum, comparisons and much broadcasting. Each
value is read as a linear form of the indices of its axes and of sizes; a condition is a set of
forms that all have to be at most 0. So every spelling of the same mask is the same set, and a mask
that also depends on data is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.cleanup.partial import Dim
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.fuse.forms import KEY, NEVER, QUERY, Condition, Form, size_form
from burnish.passes.fuse.heads import elements_of

_DEPTH = 24  # operators between a mask and the positions it is made of
_LARGEST = 1 << 22  # elements of a constant that is read


# --- masks that are added ----------------------------------------------------------------------


def unmasked(value: ir.Value | None, least: float, depth: int = _DEPTH) -> Condition | None:
    """Read where a mask that is added is 0, if it is `least` or less everywhere else."""
    if value is None or depth == 0:
        return None
    array = _array(value)
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
            condition = _in_place(node, first, condition_of(first, depth - 1))
            if yes is not None and no is not None and 0 in (yes, no) and min(yes, no) <= least:
                return condition if yes == 0 else negated(condition)
            return None
        case "Mul":
            for factor, other in ((first, second), (second, first)):
                number = _number(factor)
                if number is not None and number > 0:
                    return unmasked(other, least / number, depth - 1)
                if number is not None and -np.inf < number <= least and _is_binary(other):
                    return negated(_in_place(node, other, condition_of(other, depth - 1)))
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
    inner = unmasked(first, least, depth - 1) if node.op_type in _MOVING else None
    return None if inner is None else _moved(inner, _moves(node, depth))


def _number(value: ir.Value | None) -> float | None:
    """Return the one number a value holds, in however many elements, or None."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Expand", "Identity"):
        value = node.inputs[0]
        node = None if value is None else value.producer()
    number = scalar_of(value)
    if number is None and node is not None and node.op_type == "ConstantOfShape":
        return _fill(node)
    return number


# --- conditions --------------------------------------------------------------------------------


def condition_of(value: ir.Value | None, depth: int = _DEPTH) -> Condition | None:
    """Read where a boolean is true, or a number is not 0; None where it takes data to know."""
    if value is None or depth == 0:
        return None
    array = _array(value)
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
            found = _in_place(node, first, condition_of(first, depth - 1))
            return found if number else negated(found)
        case "Where":
            chosen = [condition_of(item, depth - 1) for item in node.inputs[1:]]
            inner = _in_place(node, first, condition_of(first, depth - 1))
            if chosen == [frozenset(), NEVER]:
                return inner
            return negated(inner) if chosen == [NEVER, frozenset()] else None
        case "Trilu":
            return _triangle(node, depth)
        case "ConstantOfShape":
            return frozenset() if _fill(node) else NEVER
        case "Cast" | "Identity":
            return condition_of(first, depth - 1)
    inner = condition_of(first, depth - 1) if node.op_type in _MOVING else None
    return None if inner is None else _moved(inner, _moves(node, depth))


def _at_most(
    node: ir.Node, a: ir.Value | None, b: ir.Value | None, strictly: bool, depth: int
) -> Condition | None:
    difference = _sum(node, a, b, -1, depth)
    if difference is None:
        return None
    return frozenset({difference.plus(Form(constant=int(strictly)))})


def _union(node: ir.Node, read: Callable[[ir.Value | None], Condition | None]) -> Condition | None:
    """Read what holds where all inputs of a node do; not the others where one cannot be read."""
    union: Condition = frozenset()
    for item in node.inputs:
        found = _in_place(node, item, read(item))
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
        array, node = _array(inner), inner.producer()
        if array is not None:
            return bool(((array == 0) | (array == 1)).all())
    return node is not None and node.op_type == "ConstantOfShape" and _fill(node) == 1


# --- numbers -----------------------------------------------------------------------------------


def form_of(value: ir.Value | None, depth: int = _DEPTH) -> Form | None:
    """Read a value of whole numbers as a linear form of its indices and of sizes."""
    if value is None or depth == 0:
        return None
    array = _array(value)
    if array is not None:
        return _constant_form(array)
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
            fill = _fill(node)
            return Form(constant=int(fill)) if fill.is_integer() else None
        case "Add" | "Sub":
            return _sum(node, first, second, 1 if node.op_type == "Add" else -1, depth)
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
    inner = form_of(first, depth - 1) if node.op_type in _MOVING else None
    (form,) = (inner is not None and _moved({inner}, _moves(node, depth))) or (None,)
    return form


def _sum(
    node: ir.Node, a: ir.Value | None, b: ir.Value | None, times: int, depth: int
) -> Form | None:
    """Read a + times * b, which the node broadcasts."""
    left = _spread(node, a, form_of(a, depth - 1))
    right = None if left is None else _spread(node, b, form_of(b, depth - 1))
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


def _constant_form(array: np.ndarray) -> Form | None:
    """Read a constant that is one number everywhere, or grows evenly along one axis."""
    if array.dtype.kind not in "iuf" or not array.size:
        return None
    start, axes = array.flat[0], [axis for axis, size in enumerate(array.shape) if size > 1]
    if start != np.floor(start):
        return None
    if (array == start).all():
        return Form(constant=int(start))
    if len(axes) != 1:
        return None
    row = array.reshape(-1)
    step = row[1] - row[0]
    if step != np.floor(step) or not np.array_equal(row, start + step * np.arange(row.size)):
        return None
    return Form.of({axes[0] - array.ndim: int(step)}, int(start))


# --- moving axes -------------------------------------------------------------------------------

# Each element of the output is one of the first input.
_MOVING = frozenset(
    {"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Tile", "Transpose", "Slice"}
    | {"Gather", "GatherElements", "GatherND"}
)


def _moves(node: ir.Node, depth: int) -> dict[int, Form]:
    """Say what becomes of the indices of a node's first input: axis before -> form after.

    Indices that are missing are not known afterwards.
    """
    before = None if node.inputs[0] is None else node.inputs[0].shape
    after = node.outputs[0].shape
    if before is None or after is None:
        return {}
    match node.op_type:
        case "Unsqueeze" | "Squeeze" | "Reshape":
            return _matched(node, before, after) or {}
        case "Expand":
            kept = [a for a in range(-len(before), 0) if same_dim(before[a], after[a])]
            return {axis: Form.of({axis: 1}) for axis in kept}
        case "Transpose":
            attribute = node.attributes.get("perm")
            perm = range(len(before))[::-1] if attribute is None else attribute.as_ints()
            return {old - len(perm): Form.of({new - len(perm): 1}) for new, old in enumerate(perm)}
        case "Slice":
            return _sliced(node, len(before), depth) or {}
    return {}


def _matched(node: ir.Node, before: ir.Shape, after: ir.Shape) -> dict[int, Form] | None:
    """Match axes where only axes of size 1 come and go."""
    axes = ints_of(node, "axes", 1) if node.op_type == "Unsqueeze" else None
    if axes is not None:
        new = {axis % len(after) for axis in axes}
        old, kept = list(range(len(before))), [a for a in range(len(after)) if a not in new]
    else:
        old, kept = ([a for a, dim in enumerate(shape) if dim != 1] for shape in (before, after))
        if not all(same_dim(before[a], after[b]) for a, b in zip(old, kept, strict=False)):
            return None
    if len(old) != len(kept):
        return None
    pairs = zip(old, kept, strict=True)
    return {a - len(before): Form.of({b - len(after): 1}) for a, b in pairs}


def _sliced(node: ir.Node, rank: int, depth: int) -> dict[int, Form] | None:
    """A slice of steps of 1 shifts the indices of the axes it is of."""
    moves = {axis: Form.of({axis: 1}) for axis in range(-rank, 0)}
    starts, axes = node.inputs[1], None if len(node.inputs) < 4 else as_array(node.inputs[3])
    steps = None if len(node.inputs) < 5 else as_array(node.inputs[4])
    if starts is None or (steps is not None and (steps != 1).any()):
        return None
    known = as_array(starts)
    if axes is None:
        axes = np.arange(1 if known is None else known.size)
    for position, axis in enumerate(axes.tolist()):
        start = (
            Form(constant=int(known[position])) if known is not None else form_of(starts, depth - 1)
        )
        if start is None or (len(axes) > 1 and known is None):
            return None
        if any(n < 0 for _, n in start.terms) or start.constant < 0:
            return None  # counted from the end
        axis = axis - rank if axis >= 0 else axis
        moves[axis] = moves[axis].plus(start)
    return moves


def _moved(condition: Iterable[Form], moves: Mapping[int, Form]) -> Condition | None:
    """Put what became of each index into forms; None if one is lost."""
    moved: set[Form] = set()
    for form in condition:
        made = Form.of({name: n for name, n in form.terms if isinstance(name, str)}, form.constant)
        for name, n in form.terms:
            if isinstance(name, int):
                if name not in moves:
                    return None
                made = made.plus(moves[name], n)
        moved.add(made)
    return frozenset(moved)


def _in_place(
    node: ir.Node, value: ir.Value | None, condition: Condition | None
) -> Condition | None:
    """Give a condition, unless an axis it speaks of may be broadcast by the node."""
    if condition is None or all(_spread(node, value, form) is not None for form in condition):
        return condition
    return None


def _spread(node: ir.Node, value: ir.Value | None, form: Form | None) -> Form | None:
    """Give a form, unless an axis it speaks of may be broadcast by the node."""
    if form is None or not form.axes:
        return form
    after = node.outputs[0].shape
    if value is None or value.shape is None or after is None:
        return None
    return form if all(same_dim(value.shape[axis], after[axis]) for axis in form.axes) else None


# --- constants ---------------------------------------------------------------------------------


def _array(value: ir.Value) -> np.ndarray | None:
    size = 1
    for dim in value.shape.dims if value.shape is not None else ():
        size *= dim if isinstance(dim, int) else 1
    return as_array(value) if size <= _LARGEST else None


def _fill(node: ir.Node) -> float:
    value = node.attributes.get("value")
    return 0.0 if value is None else float(value.as_tensor().numpy().item())


def _is_single(value: ir.Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape.dims)
