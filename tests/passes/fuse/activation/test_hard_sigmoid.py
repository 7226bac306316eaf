# SPDX-License-Identifier: Apache-2.0
"""Clip, HardSigmoid and HardSwish in the spellings of exporters.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.activation.activation import FuseActivation
from burnish.passes.fuse.activation.hard_sigmoid import (
    clip,
    hard_sigmoid,
    hard_sigmoid_gate,
    hard_swish,
)
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    parse,
)

Freeze = Callable[..., ir.Model]

CONSTANTS = (
    "<float zero = {0}, float one = {1}, float three = {3}, float six = {6},"
    " float sixth = {0.16666667}, float half = {0.5}>"
)
SIGNATURE = (
    "g (float[3,5] x, float[3,5] x1, float zero, float one, float three, float[1] six, float sixth,"
    " float a, float b) => (float[3,5] y)"
)
NUMBERS = {"zero": 0, "one": 1, "three": 3, "six": 6, "sixth": 1 / 6, "a": 0.2, "b": 0.45}


def check(freeze: Freeze, body: str, expected: list[str], dtype: str, opset: int) -> None:
    model = freeze((SIGNATURE + body).replace("float", dtype), opset=opset, **NUMBERS)
    assert_becomes(FuseActivation(), model, expected)


# --- clip --------------------------------------------------------------------------------------


def test_relu_and_min_become_clip() -> None:
    before = parse(f"g (float[N] x) => (float[N] y) {CONSTANTS} {{ a = Relu(x) y = Min(six, a) }}")
    after = parse(f"g (float[N] x) => (float[N] y) {CONSTANTS} {{ y = Clip(x, zero, six) }}")
    assert_rewrites(clip, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(
    "body", ["{ p = Max(x, zero) y = Min(six, p) }", "{ p = Min(x, one) y = Max(zero, p) }"]
)
def test_min_and_max_become_clip(freeze: Freeze, body: str, dtype: str) -> None:
    check(freeze, body, ["Clip"], dtype, 21)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{ p = Max(x, six) y = Min(p, one) }", "the lower bound is above the upper one"),
        ("{ p = Max(x, zero) y = Min(p, x1) }", "high is not constant"),
    ],
)
def test_clip_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(clip, freeze(SIGNATURE + body, **NUMBERS), reason)


# --- hard-sigmoid ------------------------------------------------------------------------------


def test_shifted_clip_over_six_becomes_hard_sigmoid() -> None:
    before = parse(
        f"g (float[N] x) => (float[N] y) {CONSTANTS}"
        "{ p = Add(x, three) q = Clip(p, zero, six) y = Div(q, six) }"
    )
    after = parse(
        "g (float[N] x) => (float[N] y) { y = HardSigmoid<alpha=0.16666667, beta=0.5>(x) }"
    )
    assert_rewrites(hard_sigmoid, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(
    "body",
    [
        "{ p = Add(x, three) q = Clip(p, zero, six) y = Mul(sixth, q) }",
        "{ p = Add(three, x) r = Relu(p) q = Min(r, six) y = Div(q, six) }",
        "{ p = Add(x, three) q = Div(p, six) y = Clip(q, zero, one) }",
        "{ p = Add(x, three) q = Mul(sixth, p) y = Clip(q, zero, one) }",
        "{ p = Mul(x, a) q = Add(p, b) y = Clip(q, zero, one) }",
        "{ p = Div(x, six) q = Add(b, p) y = Clip(q, zero, one) }",
    ],
)
def test_spellings_of_hard_sigmoid(freeze: Freeze, body: str, dtype: str) -> None:
    check(freeze, body, ["HardSigmoid"], dtype, 21)


def test_clip_with_attributes(freeze: Freeze) -> None:
    body = "{ p = Add(x, three) q = Clip<min=0.0, max=6.0>(p) y = Div(q, six) }"
    check(freeze, body, ["HardSigmoid"], "float", 7)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "{ p = Add(x, three) q = Clip(p, zero, six) y = Div(q, three) }",
            "an operand is 3, not 6",
        ),
        ("{ p = Div(x, zero) q = Add(p, b) y = Clip(q, zero, one) }", "the divisor is zero"),
        ("{ p = Mul(x, a) q = Add(p, x1) y = Clip(q, zero, one) }", "b is not constant"),
    ],
)
def test_hard_sigmoid_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    assert_refuses(hard_sigmoid, freeze(SIGNATURE + body, **NUMBERS), reason)


# --- hard-sigmoid-gate -------------------------------------------------------------------------


def test_a_gate_over_six_becomes_hard_sigmoid() -> None:
    before = parse(
        f"g (float[N] x, float[N] z) => (float[N] y) {CONSTANTS}"
        "{ p = Add(x, three) q = Clip(p, zero, six) r = Mul(q, z) y = Div(r, six) }"
    )
    after = parse(
        "g (float[N] x, float[N] z) => (float[N] y)"
        "{ p = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(z, p) }"
    )
    assert_rewrites(hard_sigmoid_gate, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("gated", ["x1", "x"])
@pytest.mark.parametrize(
    "product",
    [
        "r = Mul({}, q) y = Mul(sixth, r)",
        "r = Div({}, six) y = Mul(q, r)",
        "r = Mul({}, sixth) y = Mul(r, q)",
        "r = Div(q, six) y = Mul(r, {})",
    ],
)
def test_spellings_of_gates(freeze: Freeze, product: str, gated: str, dtype: str) -> None:
    body = f"{{ p = Add(x, three) q = Clip(p, zero, six) {product.format(gated)} }}"
    expected = ["HardSwish"] if gated == "x" else ["HardSigmoid", "Mul"]
    check(freeze, body, expected, dtype, 21)


def test_a_gate_over_another_number_is_refused(freeze: Freeze) -> None:
    body = "{ p = Add(x, three) q = Clip(p, zero, six) r = Mul(x1, q) y = Div(r, three) }"
    assert_refuses(hard_sigmoid_gate, freeze(SIGNATURE + body, **NUMBERS), "an operand is 3, not 6")


# --- hard-swish --------------------------------------------------------------------------------


def test_hard_swish() -> None:
    before = parse(
        "g (float[N] x) => (float[N] y)"
        "{ p = HardSigmoid<alpha=0.1666667, beta=0.5>(x) y = Mul(p, x) }"
    )
    assert_rewrites(
        hard_swish, before, parse("g (float[N] x) => (float[N] y) { y = HardSwish(x) }")
    )


def test_another_slope_is_refused(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + "{ p = HardSigmoid(x) y = Mul(p, x) }")
    assert_refuses(hard_swish, model, "attribute alpha of HardSigmoid differs")


def test_before_its_opset_the_product_stays(freeze: Freeze) -> None:
    body = "{ p = Add(x, three) q = Clip(p, zero, six) r = Mul(x, q) y = Div(r, six) }"
    check(freeze, body, ["HardSigmoid", "Mul"], "float", 13)
