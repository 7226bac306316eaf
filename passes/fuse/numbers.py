# SPDX-License-Identifier: Apache-2.0
"""Whole numbers read as linear forms of the indices of their axes, and of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.cleanup.partial import Dim
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.fuse.attention.heads import elements_of
from burnish.passes.fuse.forms import Condition, Form, size_form

DEPTH = 24
"""Operators that are read between a mask and the positions it is made of."""

_LARGEST = 1 << 22  # elements of a constant that is read


def form_of(value: ir.Value | None, depth: int = DEPTH) -> Form | None:
    """Read a value of whole numbers as a linear form of its indices and of sizes."""
    if value is None or depth == 0:
        return None
    array = small_array(value)
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
    (form,) = (inner is not None and moved({inner}, moves_of(node, depth))) or (None,)
    return form


def sum_of(
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


# Each element of the output is one of the first input.
MOVING = frozenset(
    {"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Tile", "Transpose", "Slice"}
    | {"Gather", "GatherElements", "GatherND"}
)


def moves_of(node: ir.Node, depth: int) -> dict[int, Form]:
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
            perm = node.attributes.get_ints("perm", range(len(before))[::-1])
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


def moved(condition: Iterable[Form], moves: Mapping[int, Form]) -> Condition | None:
    """Put what became of each index into forms; None if one is lost."""
    after: set[Form] = set()
    for form in condition:
        made = Form.of({name: n for name, n in form.terms if isinstance(name, str)}, form.constant)
        for name, n in form.terms:
            if isinstance(name, int):
                if name not in moves:
                    return None
                made = made.plus(moves[name], n)
        after.add(made)
    return frozenset(after)


def in_place(
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


def small_array(value: ir.Value) -> np.ndarray | None:
    """Return the array of a constant, unless it is larger than is worth reading."""
    size = 1
    for dim in value.shape.dims if value.shape is not None else ():
        size *= dim if isinstance(dim, int) else 1
    return as_array(value) if size <= _LARGEST else None


def fill_of(node: ir.Node) -> float:
    """Return the number that a ConstantOfShape is full of."""
    value = node.attributes.get("value")
    return 0.0 if value is None else float(value.as_tensor().numpy().item())


def _is_single(value: ir.Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape.dims)
