# SPDX-License-Identifier: Apache-2.0
"""What becomes of the indices of numbers that an operator only moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import as_array
from burnish.passes.fuse.forms.form import Condition, Form

MOVING = frozenset(
    {"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Tile", "Transpose", "Slice"}
    | {"Gather", "GatherElements", "GatherND"}
)
"""Operators of which each element of the output is one of the first input."""

Reader = Callable[[ir.Value], Form | None]


def moves_of(node: ir.Node, read: Reader) -> dict[int, Form]:
    """Say what becomes of the indices of a node's first input: axis before -> form after.

    Indices that are missing are not known afterwards.

    Args:
        node: An operator of `MOVING`.
        read: Reads a whole number as a form: where a Slice starts.
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
            return _sliced(node, len(before), read) or {}
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


def _sliced(node: ir.Node, rank: int, read: Reader) -> dict[int, Form] | None:
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
        start = Form(constant=int(known[position])) if known is not None else read(starts)
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
