# SPDX-License-Identifier: Apache-2.0
"""Which axis of a weight an output sums over, also where operators only view the weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from burnish.passes.prune.pattern import Pattern
from burnish.passes.prune.weights import SLOTS, Weight
from burnish.passes.sketch import Array

_KEEPS_AXES = frozenset({"Identity", "Cast"})


@dataclass(frozen=True)
class Axes:
    """The axes of a weight as it is stored.

    Attributes:
        outputs: Axis of what gives outputs of their own.
        inputs: Axis that an output sums over.
        output_groups: Of a Conv, whose outputs lie group by group on their axis; otherwise 1.
        input_groups: Of a ConvTranspose, whose inputs do; otherwise 1.
    """

    outputs: int
    inputs: int
    output_groups: int = 1
    input_groups: int = 1

    def matrix(self, array: Array) -> Array:
        """Return a view [..., outputs, inputs] of a weight."""
        return np.moveaxis(array, (self.outputs, self.inputs), (-2, -1))

    def obstacle(self, shape: tuple[int, ...], pattern: Pattern) -> str | None:
        """Return why a weight cannot be cut into a pattern."""
        return pattern.obstacle(
            shape[self.outputs] // self.output_groups, shape[self.inputs] // self.input_groups
        )


def axes_of(weight: Weight) -> Axes | str:
    """Return the axes of a weight, or why there is no one answer."""
    found: dict[Axes, None] = {}
    for user, slot in _uses(weight.value):
        if user not in weight.users:
            continue
        value = user.inputs[slot]
        rank = 0 if value is None or value.shape is None else len(value.shape)
        if rank < 2 and value is not None and value is not weight.value:
            return "its shape is not known"
        axes = axes_of_input(user, slot, rank or len(weight.tensor.shape))
        while axes is not None and value is not weight.value:
            node = None if value is None else value.producer()
            if node is None or node.inputs[0] is None:
                return "its weights are reshaped"
            if node.op_type == "Transpose":
                rank = len(value.shape or ()) if value is not None else 0
                order = list(node.attributes.get_ints("perm", range(rank)[::-1]) or ())
                axes = replace(axes, outputs=order[axes.outputs], inputs=order[axes.inputs])
            elif node.op_type not in _KEEPS_AXES:
                return "its weights are reshaped"
            value = node.inputs[0]
        if axes is None:
            return "its inputs are not along one axis"
        found[axes] = None
    if len(found) != 1:
        return "shared by operators that sum over different axes"
    return next(iter(found))


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield what uses a weight, past operators that only view it."""
    for node, slot in value.uses():
        if slot == 0 and node.op_type not in SLOTS and len(node.outputs) == 1:
            yield from _uses(node.outputs[0])
        else:
            yield node, slot


def axes_of_input(
    node: ir.Node, slot: int, rank: int, *, op_type: str | None = None
) -> Axes | None:
    """Return the axes of an input of an operator of `SLOTS`, or None.

    Args:
        node: The operator, or what quantization made of it.
        slot: Which input.
        rank: Number of its axes.
        op_type: The operator it was; weights that come later then count as input 1.
    """
    slot = slot if slot == 0 else 1
    groups = node.attributes.get_int("group", 1) or 1
    match op_type or node.op_type, slot:
        case "Conv", 1:
            return Axes(0, 1, output_groups=groups)
        case "ConvTranspose", 1:
            return Axes(1, 0, input_groups=groups)
        case "MatMul", 0:
            return Axes(rank - 2, rank - 1)
        case "MatMul", 1:
            return Axes(rank - 1, rank - 2)
        case "Gemm", 0:
            return Axes(1, 0) if node.attributes.get_int("transA", 0) else Axes(0, 1)
        case "Gemm", 1:
            return Axes(0, 1) if node.attributes.get_int("transB", 0) else Axes(1, 0)
    return None
