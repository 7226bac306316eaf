# SPDX-License-Identifier: Apache-2.0
"""Gelu in the spellings of exporters, against the operator.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import onnx_ir as ir
import pytest

from burnish.passes.fuse.activation.gelu import gelu, gelu_tanh
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    run_pass,
)

Freeze = Callable[..., ir.Model]

SIGNATURE = (
    "g (float[3,5,4] x, float root, float rootinv, float one, float half, float two, float three,"
    " float[1] cubic, float s) => (float[3,5,4] y)"
)
NUMBERS = {
    "root": sqrt(2),
    "rootinv": sqrt(0.5),
    "one": 1,
    "half": 0.5,
    "two": 2,
    "three": 3,
    "cubic": 0.044715,
    "s": sqrt(2 / pi),
}

ERF_ARGUMENTS = {"divided": "a = Div(x, root)", "multiplied": "a = Mul(rootinv, x)"}
TANH_ARGUMENTS = {
    "pow": "k = Pow(x, three) l = Mul(k, cubic) m = Add(x, l) a = Mul(m, s)",
    "x*x*x": "k0 = Mul(x, x) k = Mul(x, k0) l = Mul(cubic, k) m = Add(l, x) a = Mul(s, m)",
    "c*x*x*x": "k = Mul(cubic, x) k1 = Mul(k, x) l = Mul(k1, x) m = Add(x, l) a = Mul(m, s)",
    "factored": "k = Mul(x, s) l = Mul(cubic, x) m = Mul(l, x) n = Add(m, one) a = Mul(k, n)",
    "square": "k = Pow(x, two) l = Mul(k, cubic) n = Add(one, l) m = Mul(x, n) a = Mul(m, s)",
}
# Where f = 1 + erf(a), or 1 + tanh(a).
PRODUCTS = {
    "(x/2)f, Mul": "h = Mul(x, half) y = Mul(h, f)",
    "(x/2)f, Div": "h = Div(x, two) y = Mul(f, h)",
    "x(f/2)": "h = Mul(half, f) y = Mul(x, h)",
    "(xf)/2, Mul": "h = Mul(f, x) y = Mul(h, half)",
    "(xf)/2, Div": "h = Mul(x, f) y = Div(h, two)",
}


def test_gelu_by_erf() -> None:
    before = parse(
        """g (float[N,4] x) => (float[N,4] y)
        <float r = {1.4142135}, float one = {1}, float half = {0.5}>
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }"""
    )
    assert_rewrites(gelu, before, parse("g (float[N,4] x) => (float[N,4] y) { y = Gelu(x) }"))


def test_gelu_by_tanh() -> None:
    before = parse(
        """g (float[N,4] x) => (float[N,4] y)
        <float s = {0.79788456}, float c = {0.044715}, float one = {1}, float half = {0.5},
         float three = {3}>
        { a = Pow(x, three) b = Mul(a, c) d = Add(x, b) e = Mul(d, s) f = Tanh(e) h = Add(f, one)
          i = Mul(x, h) y = Mul(i, half) }"""
    )
    after = parse('g (float[N,4] x) => (float[N,4] y) { y = Gelu<approximate="tanh">(x) }')
    assert_rewrites(gelu_tanh, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("argument", ERF_ARGUMENTS)
@pytest.mark.parametrize("opset", [13, 20])
def test_spellings_by_erf(
    freeze: Freeze, argument: str, product: str, dtype: str, opset: int
) -> None:
    body = f"{{ {ERF_ARGUMENTS[argument]} b = Erf(a) f = Add(one, b) {PRODUCTS[product]} }}"
    model = freeze((SIGNATURE + body).replace("float", dtype), opset=opset, **NUMBERS)
    original = model.clone()
    run_pass(gelu, model)
    (node,) = model.graph
    assert node.op_identifier() == ("" if opset >= 20 else "com.microsoft", "Gelu", "")
    assert_same_outputs(original, model)


def test_half_taken_into_the_factor(freeze: Freeze) -> None:
    body = "{ a = Mul(x, rootinv) b = Erf(a) c = Mul(b, half) f = Add(c, half) y = Mul(x, f) }"
    model = freeze(SIGNATURE + body, **NUMBERS)
    assert_becomes(gelu, model, ["Gelu"])


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("argument", TANH_ARGUMENTS)
@pytest.mark.parametrize("opset", [13, 20])
def test_spellings_by_tanh(
    freeze: Freeze, argument: str, product: str, dtype: str, opset: int
) -> None:
    body = f"{{ {TANH_ARGUMENTS[argument]} b = Tanh(a) f = Add(b, one) {PRODUCTS[product]} }}"
    model = freeze((SIGNATURE + body).replace("float", dtype), opset=opset, **NUMBERS)
    original = model.clone()
    run_pass(gelu_tanh, model)
    (node,) = model.graph
    expected = ("", "Gelu", "") if opset >= 20 else ("com.microsoft", "FastGelu", "")
    assert node.op_identifier() == expected
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    ("body", "numbers", "reason"),
    [
        (
            "{ a = Div(x, root) b = Erf(a) f = Add(b, one) h = Mul(x, half) y = Mul(h, f) }",
            {"root": 1.5},
            "an operand is 1.5, not 1.41421",
        ),
        (
            "{ x2 = Neg(x) a = Div(x2, root) b = Erf(a) f = Add(b, one) h = Mul(x, half)"
            " y = Mul(h, f) }",
            {},
            "x stands for two different values",
        ),
    ],
)
def test_what_only_looks_like_gelu_is_refused(
    freeze: Freeze, body: str, numbers: dict[str, float], reason: str
) -> None:
    assert_refuses(gelu, freeze(SIGNATURE + body, **NUMBERS | numbers), reason)


def test_another_cubic_term_is_refused(freeze: Freeze) -> None:
    body = f"{{ {TANH_ARGUMENTS['pow']} b = Tanh(a) f = Add(b, one) {PRODUCTS['x(f/2)']} }}"
    model = freeze(SIGNATURE + body, **NUMBERS | {"cubic": 0.05})
    assert_refuses(gelu_tanh, model, "an operand is 0.05, not 0.044715")


def test_a_type_that_the_target_lacks_is_refused(freeze: Freeze) -> None:
    body = "{ a = Div(x, root) b = Erf(a) f = Add(b, one) h = Mul(x, half) y = Mul(h, f) }"
    model = freeze((SIGNATURE + body).replace("float", "double"), **NUMBERS)
    assert_refuses(gelu, model, "target cpu does not run Gelu of double at opset 21")
