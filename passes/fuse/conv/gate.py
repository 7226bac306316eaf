# SPDX-License-Identifier: Apache-2.0
"""A gated residual takes one pass over the data: x + x * s is x * (s + 1), where s is small.

Squeeze-and-excitation blocks of text detectors are written so. On ONNX Runtime 1.31.1, CPU, one
thread, in turns: 2.08 to 2.25 for x from 1x96x60x60 to 1x96x120x120, 1.2 for 1x256x14x14. Where s
is a HardSigmoid, s + 1 is a line cut off at 1 and 2: PP-OCRv6 det 1.012 (1.008 to 1.014), v4 1.003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.channels import Affine
from burnish.passes.fuse.linear.linear import linear_of
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.fuse.scalar import is_scalar, number
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule


@rule(opset=(7, None))
def gated_residual(op: Any, x: Any, s: Any) -> Any:
    """Fuse x + x * s into x * (s + 1), where s has fewer elements than x."""
    return op.Add(x, op.Mul(x, s))


@gated_residual.rewrite
def _(op: Builder, x: Operand, s: Operand) -> Replacement:
    if x.dtype not in FLOATS:
        return NoMatch("integers are left as they are")
    if x.dims is None or s.dims is None or len(s.dims) > len(x.dims):
        return NoMatch("a rank is unknown, or the gate has more axes")
    pairs = list(zip(x.dims[len(x.dims) - len(s.dims) :], s.dims, strict=True))
    if not all(gate == 1 or gate == size for size, gate in pairs):
        return NoMatch("the gate might broadcast what it gates")
    if len(s.dims) == len(x.dims) and not any(gate == 1 != size for size, gate in pairs):
        return NoMatch("the gate is as large as what it gates")
    return op.Mul(x, op.Add(s, np.ones((), x.dtype.numpy())))


@rule(opset=(11, None))
def shifted_hard_sigmoid(op: Any, x: Any, c: Any = const(is_scalar)) -> Any:
    """Write HardSigmoid(Conv(x)) + c as a Clip, whose scale and shift the convolution takes in."""
    gate = op.HardSigmoid(op.one_of("Conv", "Gemm")(x, _more=True, _bind="linear"), _bind="gate")
    return op.Add(gate, c)


@shifted_hard_sigmoid.rewrite
def _(op: Builder, x: Operand, c: Operand, linear: ir.Node, gate: ir.Node) -> Replacement:
    read = linear_of(op, linear)
    if not read:
        return read
    if (c.rank or 0) > (len(linear.outputs[0].shape or ()) or 1):
        return NoMatch("the constant has more axes")
    scale, shift = op.attribute(gate, "alpha"), op.attribute(gate, "beta") + number(c)
    line = read.fold(op, x, after=Affine(np.asarray(scale), np.asarray(shift)))
    if isinstance(line, NoMatch):
        return line
    assert c.dtype is not None
    low, high = (np.asarray(number(c) + end, c.dtype.numpy()) for end in (0, 1))
    return op.Clip(line, low, high)


@dataclass(frozen=True)
class FuseGate(RulePass):
    """Fuse gated residuals, and shifted gates."""

    name: ClassVar[str] = "fuse-gate"
    rules: ClassVar[tuple[Rule, ...]] = (gated_residual, shifted_hard_sigmoid)
