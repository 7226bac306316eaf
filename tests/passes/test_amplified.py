# SPDX-License-Identifier: Apache-2.0
"""Rounding that a model amplifies is no excuse for what is wrong beside it.

The wrong rewrites here are wrong by 5e-4, which is less than what rounding does elsewhere in the
same model, or excuses at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.errors import VerificationError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value
from burnish.passes.options import option
from burnish.testing import parse


@dataclass(frozen=True)
class Reciprocate(Pass):
    """Takes 1 / exp(-x) for exp(x), which rounds otherwise."""

    name: ClassVar[str] = "reciprocate"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        exp = next(node for node in model.graph if node.op_type == "Exp")
        with ctx.rewrite("reciprocate", exp) as go:
            if go:
                tape = ir.tape.Tape()
                below = tape.op("Exp", [tape.op("Neg", [exp.inputs[0]])])
                new = tape.op("Reciprocal", [below])
                model.graph.insert_before(exp, tape.nodes)
                replace_value(exp.outputs[0], new)
                remove_unused([exp])


@dataclass(frozen=True)
class Exchange(Pass):
    """Takes another operator of one input for all of one type, and multiplies it by a factor."""

    name: ClassVar[str] = "exchange"
    old: str = option("Sigmoid", help="operator")
    new: str = option("Sigmoid", help="operator")
    factor: float = option(1.0, help="factor")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        for node in [node for node in model.graph if node.op_type == self.old]:
            with ctx.rewrite("exchange", node) as go:
                if go:
                    tape = ir.tape.Tape()
                    made = tape.op(self.new, [node.inputs[0]])
                    if self.factor != 1:
                        factor = ir.tensor(np.array(self.factor, np.float32))
                        made = tape.op("Mul", [made, tape.op("Constant", [], {"value": factor})])
                    model.graph.insert_before(node, tape.nodes)
                    replace_value(node.outputs[0], made)
                    remove_unused([node])


_WRONG = Exchange(factor=1.0005)
_NUMBERS = np.random.default_rng(0).uniform(1e-4, 1e-3, (16, 16)).astype(np.float32)
_AMPLIFIED = "e = Exp(x)  d = Sub(e, one)  a = Mul(d, big)  s = Sigmoid(x)"
_SIGNATURE = "g (float[16,16] x) => (%s) <float one = {1}, float big = {1000}> { %s }"


@pytest.mark.parametrize(
    ("outputs", "rest"),
    [
        ("float[16,16] y, float[16,16] z", "y = Neg(a)  z = Neg(s)"),
        ("float[16,32] y", "y = Concat<axis=1>(a, s)"),
        ("float[32,16] y", "y = Concat<axis=0>(s, a)"),
    ],
)
def test_what_no_rounding_moves_has_to_stay(outputs: str, rest: str) -> None:
    model = parse(_SIGNATURE % (outputs, f"{_AMPLIFIED}  {rest}"))
    _, report = burnish.optimize(model.clone(), Reciprocate(), calibration=[{"x": _NUMBERS}])
    (check,) = report.verification["checks"]
    assert 1e-5 < check["error"] <= check["amplified"] <= 1e-3
    with pytest.raises(VerificationError, match="the outputs differ"):
        burnish.optimize(model, [Reciprocate(), _WRONG], calibration=[{"x": _NUMBERS}])


def test_an_output_that_rounding_makes_anything_of_is_said_to_be() -> None:
    # The runtime folds the norm into the convolution, which moves the phase by whole turns.
    rng = np.random.default_rng(0)
    model = parse(
        "g (float[1,4,8,8] x) => (float[1,4,6,6] y) <float turns = {1e8}>"
        "{ c = Conv(x, w)  n = BatchNormalization(c, v, v, v, v)  p = Mul(n, turns)  y = Sin(p) }",
        w=rng.uniform(0.5, 1.5, (4, 4, 3, 3)).astype(np.float32),
        v=rng.uniform(0.5, 1.5, 4).astype(np.float32),
    )
    _, report = burnish.optimize(model, Exchange("Sin", "Cos"))
    (line,) = report.warnings
    assert "how it compares says nothing on these inputs; --calib" in line


def test_a_choice_between_what_is_all_but_equal_is_excused_and_nothing_beside_it() -> None:
    # As detectors choose queries: where scores tie, rounding decides which rows come first.
    model = parse(
        "g (float[32] x) => (float[16,4] y, float[32] z) <int64[1] k = {16}>"
        "{ e = Exp(x)  best, which = TopK(e, k)  y = Gather(rows, which)  z = Sigmoid(x) }",
        rows=np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32),
    )
    ties = np.float32(0.5) + np.float32(2**-24) * np.random.default_rng(0).permutation(32)
    feeds = [{"x": ties.astype(np.float32)}]
    _, report = burnish.optimize(model.clone(), Reciprocate(), calibration=feeds)
    (check,) = report.verification["checks"]
    assert 1e-3 < check["error"] <= check["amplified"]
    with pytest.raises(VerificationError, match="output 'z'"):
        burnish.optimize(model, [Reciprocate(), _WRONG], calibration=feeds)


def test_another_string_is_another_output() -> None:
    model = parse("g (string[N] x) => (string[N] y) { y = StringConcat(x, x) }")
    with pytest.raises(VerificationError, match="output 'y'"):
        burnish.optimize(
            model,
            Exchange("StringConcat", "Identity"),
            calibration=[{"x": np.array(["a", "b"], object)}],
        )
