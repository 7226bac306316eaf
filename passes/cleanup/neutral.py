# SPDX-License-Identifier: Apache-2.0
"""Arithmetic with a neutral element: x * 1, x / 1, x + 0, x - 0, x ** 1.

Signed zeros decide about sums: -0.0 + 0.0 is 0.0, but -0.0 - 0.0 and -0.0 + -0.0 are -0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import keeps_shape
from burnish.passes.pattern import const
from burnish.passes.rule import NoMatch, Operand, Rule, rule

# Sums of products: the sign of a zero that comes out depends on the order in which the kernel adds,
# and the sign of one that goes in can change nothing else.
_SUMS = frozenset(
    {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "ReduceSum", "ReduceMean"}
    | {"AveragePool", "GlobalAveragePool", "BatchNormalization", "LayerNormalization"}
)


def _all(number: float) -> Any:
    """Declare a constant of which every element is `number`."""

    def holds(array: np.ndarray) -> bool:
        # Look at one element before reading what may be a large weight.
        return array.size > 0 and array.flat[0] == number and bool((array == number).all())

    return const(holds)


_ONE, _ZERO = _all(1), _all(0)


def _unless_broadcast(op: Any, x: Operand, c: Operand) -> Any:
    return x if keeps_shape(x.value, c.value) else NoMatch("the constant may broadcast it")


@rule(opset=(7, None))
def multiply_by_one(op: Any, x: Any, c: Any = _ONE) -> Any:
    """Mul(x, 1) -> x."""
    return op.Mul(x, c)


@rule(opset=(7, None))
def divide_by_one(op: Any, x: Any, c: Any = _ONE) -> Any:
    """Div(x, 1) -> x."""
    return op.Div(x, c)


@rule(opset=(7, None))
def power_of_one(op: Any, x: Any, c: Any = _ONE) -> Any:
    """Pow(x, 1) -> x."""
    return op.Pow(x, c)


@rule(opset=(7, None))
def subtract_zero(op: Any, x: Any, c: Any = _ZERO) -> Any:
    """Sub(x, 0) -> x."""
    return op.Sub(x, c)


@rule(opset=(7, None))
def add_zero(op: Any, x: Any, c: Any = _ZERO) -> Any:
    """Add(x, 0) -> x."""
    return op.Add(x, c, _bind="node")


for each in (multiply_by_one, divide_by_one, power_of_one):
    each.rewrite(_unless_broadcast)


@subtract_zero.rewrite
def _(op: Any, x: Operand, c: Operand) -> Any:
    if c.array is not None and np.signbit(c.array).any():
        return NoMatch("-0.0 - -0.0 is 0.0")
    return _unless_broadcast(op, x, c)


@add_zero.rewrite
def _(op: Any, x: Operand, c: Operand, node: ir.Node) -> Any:
    array = c.array
    assert array is not None
    exact = array.dtype.kind in "iu" or bool(np.signbit(array).all())
    if not exact and not _sign_of_zero_is_free(x.value, node.outputs[0]):
        return NoMatch("-0.0 + 0.0 is 0.0")
    return _unless_broadcast(op, x, c)


def _sign_of_zero_is_free(x: ir.Value, result: ir.Value) -> bool:
    producer = x.producer()
    if producer is not None and producer.op_type in _SUMS:
        return True
    return not result.is_graph_output() and all(
        user.op_type in _SUMS for user in result.consumers()
    )


RULES: tuple[Rule, ...] = (
    multiply_by_one,
    divide_by_one,
    power_of_one,
    subtract_zero,
    add_zero,
)
