# SPDX-License-Identifier: Apache-2.0
"""Scores that are read, in types that change on the way, and what are none.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.frontends import load
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.passes.fuse.attention.scores import QUANTIZED
from burnish.testing import assert_refuses, parse, refusals, run_pass
from tests.passes.fuse.attention.conftest import (
    HALF,
    HEADER,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WIDE,
    Freeze,
    fused,
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{PRODUCT} z = Where(xm, a, minusinf) {PLAIN}", "a row masked whole would give NaN"),
        (f"{PRODUCT} z = Where(xm, a, c) {PLAIN}", "not far enough below the scores"),
        (f"{PRODUCT} z = Max(a, c) {PLAIN}", "cut at a number that some may be below"),
        (f"{PRODUCT} b = Add(a, xb) z = Div(b, c) {PLAIN}", "scaled behind a mask"),
        (f"{PRODUCT} z = Mul(a, xb) {PLAIN}", "multiplied by no constant"),
        (f"{PRODUCT} z = Sub(xb, a) {PLAIN}", "the scores are not a product"),
        (f"z = Abs(xb) {PLAIN}", "the scores are not a product"),
        (f"{PRODUCT} z = Add(a, s) {PLAIN}", "the scores are used elsewhere too"),
    ],
)
def test_what_is_no_attention(freeze: Freeze, body: str, reason: str) -> None:
    model = freeze(SIGNATURE + f"{{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(attention, model, reason, target=WANTS)


def test_a_softmax_in_float32_between_float16(freeze: Freeze) -> None:
    """Compared with tolerance 1e-2: float16."""
    body = f"{WIDE} z = Add(a, xb) p = Softmax(z) h = Cast<to=10>(p) y = MatMul(h, xv)"
    model = freeze(f"{HALF} {{ {body} }}", opset=23, **NUMBERS)
    assert fused(model) == ["Cast", "Attention"]


def test_queries_in_float32_between_float16(freeze: Freeze) -> None:
    body = (
        "q = Cast<to=1>(xq) k = Cast<to=1>(xk) t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t)"
        " a = Mul(s, c) p = Softmax(a) h = Cast<to=10>(p) y = MatMul(h, xv)"
    )
    model = freeze(f"{HALF} {{ {body} }}", opset=23, **NUMBERS)
    assert fused(model) == ["Attention"]


def test_nothing_is_refused_twice(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ z = Abs(xb) {PLAIN} }}", opset=23, **NUMBERS)
    context = run_pass(attention, model, target=WANTS)
    assert refusals(context)["attention"] == {"the scores are not a product": 1}


QDQ = (
    HEADER + "g (float[1,4,2,8] q, float[1,4,8,3] k, float[1,4,3,8] v) => (float[1,4,2,8] y)"
    "<float s = {0.05}, int8 z = {0}, float t = {0.004}> { BODY }"
)


@pytest.mark.parametrize(
    "body",
    [
        # Both, the weights alone, and the scores alone.
        "a = MatMul(q, k) b = QuantizeLinear(a, s, z) c = DequantizeLinear(b, s, z)"
        "d = Softmax(c) e = QuantizeLinear(d, t, z) f = DequantizeLinear(e, t, z) y = MatMul(f, v)",
        "a = MatMul(q, k) d = Softmax(a) e = QuantizeLinear(d, t, z)"
        "f = DequantizeLinear(e, t, z) y = MatMul(f, v)",
        "a = MatMul(q, k) b = QuantizeLinear(a, s, z) c = DequantizeLinear(b, s, z)"
        "d = Softmax(c) y = MatMul(d, v)",
    ],
)
def test_what_is_quantized_inside_stays_and_says_why(body: str) -> None:
    model = parse(QDQ.replace("BODY", body))
    before = [node.op_type for node in model.graph]
    ctx = run_pass("attention-opset,fuse-attention", model, target=WANTS)
    assert [node.op_type for node in model.graph] == before
    assert refusals(ctx)["attention"] == {QUANTIZED: 1}


@pytest.mark.zoo
def test_a_quantized_distilbert_says_why_of_each_layer() -> None:
    from burnish.tools import zoo

    model = load(zoo.fetch("quantized-distilbert")).model
    ctx = run_pass("cleanup,fuse-attention", model)
    assert refusals(ctx)["attention"] == {QUANTIZED: 6}
