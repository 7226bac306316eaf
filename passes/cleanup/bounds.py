# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold anyway: Relu of Sigmoid, Clip(x, 0, 1) of Softmax, Max(size, 0), And(x, True).

What an operator can give is read from it and from what it takes, a few operators deep.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_shape
from burnish.passes.constant import as_array, scalar_of, tensor_of
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

Bounds = tuple[float, float]

_DEPTH = 6
_ANY: Bounds = (-math.inf, math.inf)
_GIVES: dict[str, Bounds] = {
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Abs", "Exp", "Relu", "Softplus", "Sqrt"), (0.0, math.inf)),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), (0.0, math.inf)),
    **dict.fromkeys(("Shape", "Size", "NonZero", "ArgMax", "ArgMin"), (0.0, math.inf)),
    **dict.fromkeys(("Cos", "Erf", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
}
# What they give is among what their first input holds.
_PASS_ON = frozenset(
    {"Expand", "Flatten", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Identity"}
    | {"MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Slice", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze", "DepthToSpace", "SpaceToDepth"}
)
_SMALL = 1024  # elements of a constant that is looked through


def bounds_of(value: ir.Value | None, depth: int = _DEPTH) -> Bounds:
    """Return numbers between which all elements are known to be, or NaN."""
    if value is None or depth == 0:
        return _ANY
    tensor = tensor_of(value)
    if tensor is not None and 0 < tensor.size <= _SMALL and tensor.dtype != ir.DataType.STRING:
        array = tensor.numpy()
        return float(array.min()), float(array.max())
    node = value.producer()
    if node is None or node.domain != "" or node.op_type == "Constant":
        return _ANY
    if node.op_type in _GIVES and value is node.outputs[0]:
        return _GIVES[node.op_type]
    if node.op_type in _PASS_ON and value is node.outputs[0]:
        return bounds_of(node.inputs[0], depth - 1)
    if node.op_type == "Range":
        start, step = scalar_of(node.inputs[0]), scalar_of(node.inputs[2])
        return (start, math.inf) if start is not None and step is not None and step > 0 else _ANY
    if node.op_type == "Clip":
        low, high = _limits(node)
        least, most = bounds_of(node.inputs[0], depth - 1)
        # The upper bound wins: one that is not known may be below the lower one.
        least = min(max(least, low), high) if _knows_limits(node) else -math.inf
        return least, min(most, high)
    if node.op_type in ("Concat", "Max", "Min"):
        found = [bounds_of(item, depth - 1) for item in node.inputs]
        lows, highs = [item[0] for item in found], [item[1] for item in found]
        low = max(lows) if node.op_type == "Max" else min(lows)
        return low, min(highs) if node.op_type == "Min" else max(highs)
    return _ANY


def _limits(node: ir.Node) -> Bounds:
    """Return the bounds of a Clip; none where they are not known."""
    found = []
    for index, (name, none) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        given = node.inputs[index] if len(node.inputs) > index else None
        attribute = node.attributes.get(name)
        number = scalar_of(given)
        if attribute is not None and not attribute.is_ref():
            number = attribute.as_float()
        found.append(none if number is None else number)
    return found[0], found[1]


def _knows_limits(node: ir.Node) -> bool:
    given = [value for value in node.inputs[1:] if value is not None]
    return all(scalar_of(value) is not None for value in given) and not any(
        attribute.is_ref() for attribute in node.attributes.values()
    )


_BOUNDED = (*_GIVES, *_PASS_ON, "Clip", "Concat", "Max", "Min", "Range")


@rule
def bound_again(op: Any) -> Any:
    """Relu(x), Abs(x) or Clip(x) -> x where x is within those bounds anyway."""
    x = op.one_of(*_BOUNDED)(_more=True, _shared=True)
    return op.one_of("Relu", "Abs", "Clip")(x, _more=True, _bind="node")


@bound_again.rewrite
def _(op: Builder, node: ir.Node) -> Replacement:
    x = node.inputs[0]
    if not _knows_limits(node):
        return NoMatch("the bounds are not constant")
    low, high = _limits(node) if node.op_type == "Clip" else (0.0, math.inf)
    least, most = bounds_of(x)
    return x if least >= low and most <= high else NoMatch("it may be out of these bounds")


@rule(opset=(8, None))  # before, they take floating-point numbers of one shape
def larger_of_both(op: Any, x: Any, c: Any = const()) -> Any:
    """Max(x, c) -> x where x is never less; Min likewise."""
    return op.one_of("Max", "Min")(x, c, _bind="node")


@larger_of_both.rewrite
def _(op: Builder, x: Operand, node: ir.Node) -> Replacement:
    low, high = bounds_of(x.value)
    other = next((value for value in node.inputs if value is not x.value), None)
    least, most = bounds_of(other)
    if not (low >= most if node.op_type == "Max" else high <= least):
        return NoMatch("either may be the one")
    return x if same_shape(x.value, node.outputs[0]) else NoMatch("the constant may broadcast it")


def _alike(array: np.ndarray) -> bool:
    return array.dtype == np.bool_ and array.size > 0 and bool((array == array.flat[0]).all())


@rule(opset=(7, None))
def decided_logic(op: Any, x: Any, c: Any = const(_alike)) -> Any:
    """And(x, True), Or(x, False) -> x; Xor(x, False) -> x."""
    return op.one_of("And", "Or", "Xor")(x, c, _bind="node")


@decided_logic.rewrite
def _(op: Builder, x: Operand, c: Operand, node: ir.Node) -> Replacement:
    array = as_array(c.value)
    assert array is not None
    if bool(array.flat[0]) != (node.op_type == "And"):
        return NoMatch("the other one decides")
    return x if same_shape(x.value, node.outputs[0]) else NoMatch("the constant may broadcast it")


RULES = (bound_again, larger_of_both, decided_logic)
