# SPDX-License-Identifier: Apache-2.0
"""Activations written out in small operators become one operator.

Ratios are to the spelled-out form on onnxruntime 1.31.1, CPU, one thread, its own optimizations at
their default, in turns, over shapes from 1x16x64 to 1x16x240x240:

    Gelu, erf       1.00   the runtime finds the same spelling itself
    Gelu, tanh      1.69 to 2.68
    HardSigmoid     2.28 to 2.96
    HardSwish       1.64 to 2.62, the same as Mul(x, HardSigmoid(x)), into which it is expanded
    QuickGelu       1.00   and 2.4 with the runtime's optimizations at `basic`
    Clip for Min(Relu(x), c)   1.14 to 2.2
    Mish            1.00   expanded into the operators it came from
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

MICROSOFT = "com.microsoft"


def _half(op: Any, x: Any) -> Any:
    """Pattern of x / 2."""
    return op.either(op.Mul(x, 0.5), op.Div(x, 2.0))


def _halved_product(op: Any, x: Any, factor: Any) -> tuple[Any, ...]:
    """Patterns of x * factor / 2 in every association; each is a root of its own."""
    return (
        op.Mul(_half(op, x), factor),
        op.Mul(x, _half(op, factor)),
        op.Mul(op.Mul(x, factor), 0.5),
        op.Div(op.Mul(x, factor), 2.0),
    )
