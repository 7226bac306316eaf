# SPDX-License-Identifier: Apache-2.0
"""Operators on numbers that broadcast, and operands stored in another order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant
from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.permutation import Perm, is_identity
from burnish.passes.rule import Builder, NoMatch


def _operand(value: ir.Value, perm: Perm) -> Perm | np.ndarray | NoMatch | None:
    """Return how an operand that broadcasts to the rank of `perm` is stored; None as it is."""
    if value.shape is None:
        return NoMatch("the rank of an operand is unknown")
    missing = len(perm) - len(value.shape)
    if missing < 0:
        return NoMatch("an operand has more axes than the result")
    if all(dim == 1 for dim in value.shape):
        return None
    array = as_array(value) if is_constant(value) else None
    if array is not None:
        array = array.reshape((1,) * missing + array.shape).transpose(perm)
        ones = next((i for i, size in enumerate(array.shape) if size != 1), len(perm))
        return array.reshape(array.shape[min(ones, missing) :])
    if is_identity(perm[:missing]):
        return tuple(axis - missing for axis in perm[missing:])
    return NoMatch("an operand of lower rank would need more axes")


def on_operands(node: ir.Node, perm: Perm, indices: Iterable[int], **more: Any) -> Move | NoMatch:
    """Move a node whose inputs at `indices` and outputs all have the axes of `perm`."""
    inputs: dict[int, Perm] = {}
    constants: dict[int, np.ndarray] = {}
    for index in indices:
        value = node.inputs[index]
        stored = None if value is None else _operand(value, perm)
        if isinstance(stored, NoMatch):
            return stored
        if isinstance(stored, np.ndarray):
            constants[index] = stored
        elif stored is not None:
            inputs[index] = stored
    constants |= more.pop("constants", {})
    return Move(moving(inputs), stored_outputs(node, perm), constants=constants, **more)


def moving(orders: dict[int, Perm]) -> dict[int, Perm]:
    """Leave out the orders that change nothing."""
    return {index: perm for index, perm in orders.items() if not is_identity(perm)}


def stored_outputs(node: ir.Node, perm: Perm) -> dict[int, Perm]:
    """Return an order for each output that there is."""
    return dict.fromkeys((i for i, value in enumerate(node.outputs) if value.name), perm)


def move_elementwise(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move an operator whose operands broadcast."""
    result = node.outputs[0].shape
    if result is None or len(result) != len(perm):
        return NoMatch("an operand of lower rank would need more axes")
    return on_operands(node, perm, range(len(node.inputs)))


def move_unary(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    """Move an operator on each number of its first input."""
    return on_operands(node, perm, [0])
