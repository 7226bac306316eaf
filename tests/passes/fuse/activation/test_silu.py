# SPDX-License-Identifier: Apache-2.0
"""SiLU, quick Gelu and Mish.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.activation.silu import mish, quick_gelu, silu
from burnish.passes.rule import Rule
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    parse,
    run_pass,
)

Freeze = Callable[..., ir.Model]
OPSETS = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


def test_silu() -> None:
    before = parse("g (float[N,4] x) => (float[N,4] y) { a = Sigmoid(x) y = Mul(x, a) }")
    after = parse(
        f"{OPSETS} g (float[N,4] x) => (float[N,4] y)"
        "{ y = com.microsoft.QuickGelu<alpha=1.0>(x) }"
    )
    assert_rewrites(silu, before, after)


def test_quick_gelu() -> None:
    before = parse(
        "g (float[N,4] x) => (float[N,4] y) <float c = {1.702}>"
        "{ a = Mul(c, x) b = Sigmoid(a) y = Mul(b, x) }"
    )
    after = parse(
        f"{OPSETS} g (float[N,4] x) => (float[N,4] y)"
        "{ y = com.microsoft.QuickGelu<alpha=1.702>(x) }"
    )
    assert_rewrites(quick_gelu, before, after)


@pytest.mark.parametrize("softplus", ["b = Softplus(x)", "a = Exp(x) c = Add(a, one) b = Log(c)"])
def test_mish(softplus: str) -> None:
    before = parse(
        "g (float[N,4] x) => (float[N,4] y) <float one = {1}>"
        f"{{ {softplus} d = Tanh(b) y = Mul(x, d) }}"
    )
    assert_rewrites(mish, before, parse("g (float[N,4] x) => (float[N,4] y) { y = Mish(x) }"))


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (silu, "{ a = Sigmoid(x) y = Mul(x, a) }"),
        (quick_gelu, "{ a = Mul(x, c) b = Sigmoid(a) y = Mul(b, x) }"),
    ],
)
def test_numbers_stay_in_float16(freeze: Freeze, rule: Rule, body: str) -> None:
    model = freeze(f"g (float16[3,5] x, float16[1] c) => (float16[3,5] y) {body}", c=1.702)
    assert_becomes(rule, model, ["QuickGelu"])


def test_a_gate_of_something_else_is_refused(freeze: Freeze) -> None:
    model = freeze(
        "g (float[3,5] x, float[3,5] x1) => (float[3,5] y) { a = Sigmoid(x1) y = Mul(x, a) }"
    )
    assert_refuses(silu, model, "x stands for two different values")


def test_a_factor_for_each_channel_is_refused(freeze: Freeze) -> None:
    model = freeze(
        "g (float[3,5] x, float[5] c) => (float[3,5] y)"
        "{ a = Mul(x, c) b = Sigmoid(a) y = Mul(b, x) }"
    )
    assert_refuses(quick_gelu, model, "a has another value")


def test_a_type_that_the_target_lacks_is_refused() -> None:
    model = parse("g (double[3] x) => (double[3] y) { a = Sigmoid(x) y = Mul(x, a) }")
    assert_refuses(silu, model, "target cpu does not run QuickGelu of double at opset 1")


def test_mish_is_refused_before_its_opset(freeze: Freeze) -> None:
    model = freeze(
        "g (float[3] x) => (float[3] y) { a = Softplus(x) b = Tanh(a) y = Mul(x, b) }", opset=17
    )
    run_pass(mish, model)
    assert [node.op_type for node in model.graph] == ["Softplus", "Tanh", "Mul"]
