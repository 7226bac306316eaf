# SPDX-License-Identifier: Apache-2.0
"""PRelu in the spellings of exporters, and LeakyRelu where all slopes are one number.

Keras adds what of x is above zero and the slope times what is below; code for TensorFlow takes the
latter from |x|, or chooses by the sign; where no slope is above 1, the larger of x and a * x is it.

ONNX Runtime takes LeakyRelu into the convolution before it; `expand_prelu` says what it makes of
PRelu. Both are the same number for number, and for infinities and what is no number too. So are the
spellings, but for infinities where the difference x - |x| is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.passes.cleanup.dims import keeps_shape
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.fuse.scalar import is_scalar, number
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _above(op: Any, x: Any) -> Any:
    """Pattern of what of x is above zero."""
    return op.either(op.Relu(x), op.Max(x, 0.0), op.Clip(x, 0.0))


def _below(op: Any, x: Any, low: Any) -> Any:
    """Pattern of what of x is below zero."""
    return op.either(op.Min(x, 0.0), op.Clip(x, low, 0.0), op.Neg(op.Relu(op.Neg(x))))


@rule(opset=(7, None))
def prelu(op: Any, x: Any, a: Any = const(), low: Any = optional()) -> Any:
    """Fuse what of x is above zero, and a times what is below, into PRelu(x, a)."""
    return op.Add(_above(op, x), op.Mul(_below(op, x, low), a))


@prelu.also
def _(op: Any, x: Any, a: Any = const()) -> Any:
    return op.Sub(_above(op, x), op.Mul(op.Relu(op.Neg(x)), a))


@prelu.also
def _(op: Any, x: Any, minus: Any = const()) -> Any:
    return op.Add(_above(op, x), op.Mul(op.Relu(op.Neg(x)), minus))


@prelu.also
def _(op: Any, x: Any, a: Any = const()) -> Any:
    twice = op.Sub(x, op.Abs(x))
    half = op.either(op.Mul(op.Mul(twice, a), 0.5), op.Mul(op.Mul(twice, 0.5), a))
    return op.Add(_above(op, x), half)


@prelu.also
def _(op: Any, x: Any, a: Any = const()) -> Any:
    return op.Where(op.one_of("Greater", "GreaterOrEqual")(x, 0.0), x, op.Mul(x, a))


@prelu.also
def _(op: Any, x: Any, a: Any = const()) -> Any:
    return op.Where(op.one_of("Less", "LessOrEqual")(x, 0.0), op.Mul(x, a), x)


@prelu.also
def _(op: Any, x: Any, least: Any = const(is_scalar)) -> Any:
    return op.Max(x, op.Mul(x, least))


@prelu.rewrite
def _(
    op: Builder,
    x: Operand,
    a: Operand | None,
    minus: Operand | None,
    least: Operand | None,
    low: Operand | None,
) -> Replacement:
    given = a or minus or least
    assert given is not None
    assert given.array is not None
    if given.dtype not in FLOATS:
        return NoMatch("integers are not fused")
    if low is not None:
        return NoMatch("what is below zero is cut off below")
    if least is not None and (number(least) == 0 or not number(least) <= 1):
        return NoMatch("the slope is above 1, or 0")
    if not keeps_shape(x.value, given.value):
        return NoMatch("the slopes may be of more axes than x, or longer")
    return op.PRelu(x, -given.array if minus else given)


@rule(opset=(7, None))
def prelu_to_leaky_relu(op: Any, x: Any, a: Any = const()) -> Any:
    """PRelu(x, a) -> LeakyRelu(x), where all slopes are one number."""
    return op.PRelu(x, a)


@prelu_to_leaky_relu.rewrite
def _(op: Builder, x: Operand, a: Operand) -> Replacement:
    assert a.array is not None
    if a.dtype not in FLOATS:
        return NoMatch("LeakyRelu takes no integers")
    if a.array.size == 0 or (a.array != a.array.flat[0]).any():
        return NoMatch("the slopes differ")
    slope = float(a.array.flat[0])
    if not np.isfinite(slope) or float(np.float32(slope)) != slope:
        return NoMatch("the slope is not finite in float32, or not exact")
    return op.LeakyRelu(x, alpha=slope)
