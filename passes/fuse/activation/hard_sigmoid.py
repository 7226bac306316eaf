# SPDX-License-Identifier: Apache-2.0
"""Piecewise linear activations: Clip, HardSigmoid and HardSwish in every spelling.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, its own optimizations at their default, in
turns, shapes from 1x384x1x1 to 1x16x240x240, against Add, Clip, Mul, Div:

    HardSigmoid                   2.28 to 2.96
    Mul(x, HardSigmoid(x))        1.65 to 2.62
    HardSwish                     1.64 to 2.63
    Clip against Relu, Min        1.14 to 2.24

HardSwish is expanded into Mul(x, HardSigmoid(x)) when the model is loaded, and both forms are then
taken into a convolution before them, so the operator that is one node is made.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.fuse.scalar import is_scalar, number
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

# --- Clip --------------------------------------------------------------------------------------


@rule(opset=(11, None))
def clip(op: Any, x: Any, high: Any = const(is_scalar)) -> Any:
    """Fuse Min(Max(x, low), high), Max(Min(x, high), low) or Min(Relu(x), high) into Clip."""
    return op.Min(op.Relu(x), high)


@clip.also
def _(op: Any, x: Any, low: Any = const(is_scalar), high: Any = const(is_scalar)) -> Any:
    return op.Min(op.Max(x, low), high)


@clip.also
def _(op: Any, x: Any, low: Any = const(is_scalar), high: Any = const(is_scalar)) -> Any:
    return op.Max(op.Min(x, high), low)


@clip.rewrite
def _(op: Builder, x: Operand, low: Operand | None, high: Operand) -> Replacement:
    if high.dtype not in FLOATS:
        return NoMatch("integers are not fused")
    least, most = 0.0 if low is None else number(low), number(high)
    if not least <= most:
        return NoMatch("the lower bound is above the upper one")
    kind = high.dtype.numpy().type
    return op.Clip(x, kind(least), kind(most))


# --- HardSigmoid -------------------------------------------------------------------------------


def _relu6(op: Any, x: Any) -> Any:
    """Pattern of Clip(x + 3, 0, 6), whose bounds are attributes before opset 11."""
    shifted = op.Add(x, 3.0)
    return op.either(op.Clip(shifted, 0.0, 6.0), op.Clip(shifted, min=0.0, max=6.0))


def _line(op: Any, x: Any, a: Any, b: Any) -> Any:
    """Pattern of a * x + b or a * (x + b), dividing by a too."""
    scaled = op.one_of("Mul", "Div")(x, a, _bind="scale")
    shifted = op.Add(x, b, _bind="shift")
    return op.either(op.Add(scaled, b), op.one_of("Mul", "Div")(shifted, a, _bind="scale"))


@rule(opset=(7, None))
def hard_sigmoid(op: Any, x: Any) -> Any:
    """Fuse Clip(x + 3, 0, 6) / 6, or Clip(a * x + b, 0, 1), into HardSigmoid."""
    return op.Div(_relu6(op, x), 6.0)


@hard_sigmoid.also
def _(op: Any, x: Any) -> Any:
    return op.Mul(_relu6(op, x), 1 / 6)


@hard_sigmoid.also
def _(op: Any, x: Any, a: Any = const(is_scalar), b: Any = const(is_scalar)) -> Any:
    return op.Clip(_line(op, x, a, b), 0.0, 1.0)


@hard_sigmoid.also
def _(op: Any, x: Any, a: Any = const(is_scalar), b: Any = const(is_scalar)) -> Any:
    return op.Clip(_line(op, x, a, b), min=0.0, max=1.0)


@hard_sigmoid.rewrite
def _(
    op: Builder,
    x: Operand,
    a: Operand | None,
    b: Operand | None,
    scale: ir.Node | None,
    shift: ir.Node | None,
) -> Replacement:
    alpha, beta = 1 / 6, 0.5
    if a is not None and b is not None and scale is not None:
        if a.dtype not in FLOATS:
            return NoMatch("integers are not fused")
        if scale.op_type == "Div" and number(a) == 0:
            return NoMatch("the divisor is zero")
        alpha = number(a) if scale.op_type == "Mul" else 1 / number(a)
        beta = number(b) if shift is None else number(b) * alpha
    return op.HardSigmoid(x, alpha=alpha, beta=beta)


@rule(opset=(7, None))
def hard_sigmoid_gate(op: Any, x: Any, y: Any) -> Any:
    """Fuse y * Clip(x + 3, 0, 6) / 6 into y * HardSigmoid(x)."""
    return op.Div(op.Mul(y, _relu6(op, x)), 6.0)


@hard_sigmoid_gate.also
def _(op: Any, x: Any, y: Any) -> Any:
    return op.Mul(op.Mul(y, _relu6(op, x)), 1 / 6)


@hard_sigmoid_gate.also
def _(op: Any, x: Any, y: Any) -> Any:
    return op.Mul(op.either(op.Div(y, 6.0), op.Mul(y, 1 / 6)), _relu6(op, x))


@hard_sigmoid_gate.rewrite
def _(op: Builder, x: Operand, y: Operand) -> Replacement:
    return op.Mul(y, op.HardSigmoid(x, alpha=1 / 6, beta=0.5))


# --- HardSwish ---------------------------------------------------------------------------------


@rule(opset=(14, None))
def hard_swish(op: Any, x: Any) -> Any:
    """Fuse x * HardSigmoid(x) into HardSwish."""
    return op.Mul(x, op.HardSigmoid(x, alpha=1 / 6, beta=0.5))


@hard_swish.rewrite
def _(op: Builder, x: Operand) -> Replacement:
    return op.HardSwish(x)
