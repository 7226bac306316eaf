# SPDX-License-Identifier: Apache-2.0
"""PRelu in the spellings of exporters, LeakyRelu where its slopes are one number.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32. Infinities and what is no number are compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import session
from burnish.passes.fuse.activation.activation import FuseActivation
from burnish.passes.fuse.activation.prelu import prelu, prelu_to_leaky_relu
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    rewrites,
    run_pass,
)

Freeze = Callable[..., ir.Model]

SIGNATURE = (
    "g (float[2,3,4,5] x, float[2,3,4,5] x1, float[3,1,1] a, float zero, float s, float half)"
    " => (float[2,3,4,5] y)"
)
NUMBERS = {"zero": 0, "s": 0.2, "half": 0.5}
EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -3e38, 3e38], np.float32)

# --- prelu -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "p = Relu(x) n = Neg(x) m = Relu(n) o = Neg(m) q = Mul(o, a) y = Add(p, q)",
        "p = Relu(x) n = Neg(x) m = Relu(n) q = Mul(m, a) y = Add(q, p)",
        "p = Relu(x) n = Neg(x) m = Relu(n) q = Mul(a, m) y = Sub(p, q)",
        "p = Max(x, zero) m = Min(zero, x) q = Mul(a, m) y = Add(p, q)",
        "p = Clip(x, zero) m = Clip(x, , zero) q = Mul(m, a) y = Add(p, q)",
        "p = Relu(x) b = Abs(x) d = Sub(x, b) e = Mul(a, d) q = Mul(e, half) y = Add(p, q)",
        "p = Relu(x) b = Abs(x) d = Sub(x, b) e = Mul(d, half) q = Mul(e, a) y = Add(p, q)",
        "c = Greater(x, zero) q = Mul(a, x) y = Where(c, x, q)",
        "c = GreaterOrEqual(x, zero) q = Mul(x, a) y = Where(c, x, q)",
        "c = Less(x, zero) q = Mul(x, a) y = Where(c, q, x)",
    ],
)
def test_spellings_of_prelu(freeze: Freeze, body: str) -> None:
    assert_becomes(FuseActivation(), freeze(f"{SIGNATURE}{{ {body} }}", **NUMBERS), ["PRelu"])
    one = freeze(f"{SIGNATURE}{{ {body.replace('a)', 's)').replace('(a,', '(s,')} }}", **NUMBERS)
    assert_becomes(FuseActivation(), one, ["LeakyRelu"])


def test_the_larger_of_x_and_less_of_it_is_leaky_relu(freeze: Freeze) -> None:
    model = freeze(f"{SIGNATURE}{{ q = Mul(s, x) y = Max(q, x) }}", **NUMBERS)
    assert_becomes(FuseActivation(), model, ["LeakyRelu"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("q = Mul(s, x) y = Max(q, x1)", "x stands for two different values"),
        ("q = Mul(zero, x) y = Max(q, x)", "the slope is above 1, or 0"),
        (
            "p = Relu(x) m = Clip(x, s, zero) q = Mul(a, m) y = Add(p, q)",
            "what is below zero is cut off below",
        ),
        ("c = Greater(x, s) q = Mul(a, x) y = Where(c, x, q)", "an operand is 0.2, not 0"),
    ],
)
def test_prelu_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(prelu, freeze(f"{SIGNATURE}{{ {body} }}", **NUMBERS), reason)


def test_slopes_that_make_x_larger_are_refused(freeze: Freeze) -> None:
    model = freeze(
        "g (float[3] x, float[2,3] a, float zero) => (float[2,3] y)"
        "{ c = Less(x, zero) q = Mul(x, a) y = Where(c, q, x) }",
        zero=0,
    )
    assert_refuses(prelu, model, "the slopes may be of more axes than x, or longer")


def test_whole_numbers_are_refused(freeze: Freeze) -> None:
    model = freeze("g (int64[3] x, int64 a) => (int64[3] y) { q = Mul(x, a) y = Max(x, q) }", a=1)
    assert_refuses(prelu, model, "integers are not fused")


# --- prelu-to-leaky-relu -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["", "[1]", "[3,1,1]"])
@pytest.mark.parametrize("opset", [7, 9, 15, 16, 21])
def test_one_slope_becomes_leaky_relu(shape: str, opset: int) -> None:
    slopes = np.full(tuple(map(int, shape.strip("[]").split(","))) if shape else (), 0.25, "f4")
    head = "g (float[N,3,H,W] x) => (float[N,3,H,W] y)"
    before = parse(f"{head} <float{shape} a> {{ y = PRelu(x, a) }}", opset, a=slopes)
    after = parse(f"{head} {{ y = LeakyRelu<alpha=0.25>(x) }}", opset)
    assert_rewrites(prelu_to_leaky_relu, before, after)
    assert_same_outputs(before, after, feeds={"x": np.zeros((0, 3, 2, 2), np.float32)})


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 3.0])
def test_leaky_relu_of_infinities(freeze: Freeze, slope: float) -> None:
    model = freeze("g (float[8] x, float[1] a) => (float[8] y) { y = PRelu(x, a) }", a=slope)
    after = model.clone()
    run_pass(prelu_to_leaky_relu, after)
    assert [node.op_type for node in after.graph] == ["LeakyRelu"]
    with session(model) as old, session(after) as new:
        np.testing.assert_array_equal(old.run({"x": EDGES})["y"], new.run({"x": EDGES})["y"])


@pytest.mark.parametrize(
    ("dtype", "slopes", "reason"),
    [
        ("float", [0.1, 0.2, 0.3], "the slopes differ"),
        ("float", np.inf, "the slope is not finite in float32, or not exact"),
        ("double", 0.1, "the slope is not finite in float32, or not exact"),
        ("int32", 2, "LeakyRelu takes no integers"),
    ],
)
def test_leaky_relu_is_refused(freeze: Freeze, dtype: str, slopes: Any, reason: str) -> None:
    model = freeze(
        f"g ({dtype}[2,3] x, {dtype}[3] a) => ({dtype}[2,3] y) {{ y = PRelu(x, a) }}",
        a=np.asarray(slopes),
    )
    assert_refuses(prelu_to_leaky_relu, model, reason)


def test_slopes_that_are_computed_are_refused() -> None:
    model = parse("g (float[2,3] x, float[3] a) => (float[2,3] y) { y = PRelu(x, a) }")
    assert not rewrites(run_pass(prelu_to_leaky_relu, model))
