# SPDX-License-Identifier: Apache-2.0
"""Attention in the spellings of exporters.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.attention import attention
from burnish.passes.fuse.attention_heads import attention_joins_heads
from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    refusals,
    run_pass,
)

Freeze = Callable[..., ir.Model]

CPU = Target.parse("cpu")
WANTS = dataclasses.replace(CPU, preferences=())
WANTS_MHA = dataclasses.replace(CPU, preferences=(Preference("Attention", False, 0.5),))
WANTS_NONE = dataclasses.replace(
    CPU,
    preferences=(
        Preference("Attention", False, 0.93),
        Preference("microsoft.MultiHeadAttention", False, 0.93),
    ),
)

LOWEST = float(np.finfo(np.float32).min)
HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'
# Queries, keys and values have 2, 3 and 3 tokens, 4 heads of 8.
SIGNATURE = (
    "g (float[N,4,2,8] xq, float[N,4,3,8] xk, float[N,4,3,8] xv, float c, float root, float zero,"
    " float low, float minusinf, bool[N,1,2,3] xm, float[N,4,2,3] xb) => (float[N,4,2,8] y)"
)
NUMBERS = {"c": 0.25, "root": 0.5, "zero": 0.0, "low": LOWEST, "minusinf": -np.inf}


def fused(model: ir.Model, target: Target = WANTS) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass("attention-opset,fuse-attention", model, target=target)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


# --- attention ---------------------------------------------------------------------------------


def test_attention() -> None:
    signature = HEADER + "g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v)"
    before = parse(
        signature + " => (float[N,4,2,8] y) <float c = {0.25}>"
        "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) z = Mul(s, c) p = Softmax(z)"
        " y = MatMul(p, v) }"
    )
    after = parse(
        signature + " => (float[N,4,2,8] y) { y = Attention<scale=0.25>(q, k, v) }",
    )
    assert_rewrites(attention, before, after, target=WANTS)


def test_attention_for_an_older_operator_set() -> None:
    signature = "g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v) => (float[N,4,2,8] y)"
    before = parse(
        signature + "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s)"
        " y = MatMul(p, v) }"
    )
    older = before.clone()
    assert fused(before) == ["Attention"]
    assert before.opset_imports[""] == 23
    operators = fused(older, WANTS_MHA)
    assert operators.count("MultiHeadAttention") == 1
    assert "Softmax" not in operators
    assert older.opset_imports[""] == 21


@pytest.mark.parametrize(
    "product",
    [
        "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) z = Mul(c, s)",
        "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) z = Div(s, root)",
        "t = Transpose<perm=[0,1,3,2]>(xk) q = Mul(xq, c) z = MatMul(q, t)",
        "t = Transpose<perm=[0,1,3,2]>(xk) k = Div(t, c) z = MatMul(xq, k)",
        "t = Transpose<perm=[0,1,3,2]>(xk) q = Mul(xq, root) k = Mul(t, root) z = MatMul(q, k)",
        "k = Mul(xk, root) t = Transpose<perm=[0,1,3,2]>(k) z = MatMul(xq, t)",
    ],
)
def test_scales(freeze: Freeze, product: str) -> None:
    model = freeze(
        SIGNATURE + f"{{ {product} p = Softmax(z) y = MatMul(p, xv) }}", opset=23, **NUMBERS
    )
    assert fused(model) == ["Attention"]


PRODUCT = "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) a = Mul(s, c)"
GUARD = "p = Softmax(z) n = IsNaN(p) w = Where(n, zero, p) y = MatMul(w, xv)"
PLAIN = "p = Softmax(z) y = MatMul(p, xv)"


@pytest.mark.parametrize("end", [PLAIN, GUARD])
@pytest.mark.parametrize(
    "mask",
    [
        "z = Add(a, xb)",
        "z = Add(xb, a)",
        "b = Where(xm, zero, low) z = Add(a, b)",
        "m = Not(xm) b = Where(m, low, zero) z = Add(a, b)",
        "z = Where(xm, a, low)",
        "m = Not(xm) z = Where(m, low, a)",
        "b = Where(xm, xb, low) z = Add(a, b)",
        "b = Add(a, xb) z = Where(xm, b, low)",
        "b = Add(a, xb) z = Mul(b, root)",
        "b = Where(xm, a, low) z = Mul(b, root)",
    ],
)
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_masks(freeze: Freeze, mask: str, end: str, target: Target) -> None:
    """Random conditions mask some rows whole: these are compared too."""
    model = freeze(SIGNATURE + f"{{ {PRODUCT} {mask} {end} }}", opset=23, **NUMBERS)
    operators = fused(model, target)
    assert "Softmax" not in operators
    assert len({"Attention", "MultiHeadAttention"} & set(operators)) == 1


@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_a_guarded_mask_of_minus_infinity(freeze: Freeze, target: Target) -> None:
    body = f"{{ {PRODUCT} b = Where(xm, zero, minusinf) z = Add(a, b) {GUARD} }}"
    assert "Softmax" not in fused(freeze(SIGNATURE + body, opset=23, **NUMBERS), target)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{PRODUCT} z = Where(xm, a, minusinf) {PLAIN}", "a row masked whole would give NaN"),
        (f"{PRODUCT} z = Where(xm, a, c) {PLAIN}", "not far enough below the scores"),
        (f"{PRODUCT} b = Add(a, xb) z = Div(b, c) {PLAIN}", "scaled behind a mask"),
        (f"{PRODUCT} z = Mul(a, xb) {PLAIN}", "multiplied by no constant"),
        (f"z = Abs(xb) {PLAIN}", "the scores are not a product"),
        (f"{PRODUCT} z = Add(a, s) {PLAIN}", "the scores are used elsewhere too"),
    ],
)
def test_what_is_no_attention(freeze: Freeze, body: str, reason: str) -> None:
    model = freeze(SIGNATURE + f"{{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(attention, model, reason, target=WANTS)


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        ("1,4,2,8", "N,4,3,8", "N,4,3,8", "to have the same batch size"),
        ("N,H,2,8", "N,H,3,8", "N,H,3,8", "the number of heads is unknown"),
        ("4,2,8", "4,3,8", "4,3,8", "not of rank 4"),
    ],
)
def test_shapes_that_do_not_fit(q: str, k: str, v: str, reason: str) -> None:
    perm = "0,2,1" if q.count(",") == 2 else "0,1,3,2"
    model = parse(
        f"{HEADER} g (float[{q}] q, float[{k}] k, float[{v}] v) => (float[{q}] y)"
        f"{{ t = Transpose<perm=[{perm}]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }}"
    )
    assert_refuses(attention, model, reason, target=WANTS)


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ {PRODUCT} z = Add(a, xb) {PLAIN} }}", opset=23, **NUMBERS)
    reason = "target cpu runs it no faster fused (0.93x)"
    assert_refuses(attention, model, reason, target=WANTS_NONE)


def test_the_operator_set_stays_where_attention_is_not_wanted() -> None:
    model = parse(
        "g (float[2,3] x, float[3,2] v) => (float[2,2] y) { p = Softmax(x) y = MatMul(p, v) }"
    )
    assert_refuses("attention-opset", model, "no faster fused", target=WANTS_NONE)


def test_the_operator_set_of_a_classifier_stays() -> None:
    model = parse(
        "g (float[2,3,1,1] x) => (float[2,3] y) <int64[2] s = {2, 3}>"
        "{ p = Softmax<axis=1>(x) y = Reshape(p, s) }"
    )
    run_pass("attention-opset", model, target=WANTS)
    assert model.opset_imports[""] == 21


# --- shared heads ------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "times"), [(2, 2), (1, 4)])
def test_heads_of_keys_that_several_queries_share(freeze: Freeze, heads: int, times: int) -> None:
    repeated = "u{0} = Unsqueeze(x{0}, two) e{0} = Expand(u{0}, many) r{0} = Reshape(e{0}, joined)"
    model = freeze(
        f"g (float[2,4,2,8] xq, float[2,{heads},3,8] xk, float[2,{heads},3,8] xv, int64[1] two,"
        " int64[5] many, int64[4] joined) => (float[2,4,2,8] y) {"
        f"{repeated.format('k')} {repeated.format('v')}"
        " t = Transpose<perm=[0,1,3,2]>(rk) s = MatMul(xq, t) p = Softmax(s) y = MatMul(p, rv) }",
        opset=23,
        two=2,
        many=np.array([2, heads, times, 3, 8]),
        joined=np.array([2, 4, 3, 8]),
    )
    assert fused(model) == ["Attention"]


ONE_HEAD = (
    f"{HEADER} g (float[N,4,2,8] q, float[N,1,3,8] k, float[N,1,3,8] v) => (float[N,4,2,8] y)"
    "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }"
)


def test_one_head_of_keys_that_all_queries_share() -> None:
    assert fused(parse(ONE_HEAD)) == ["Attention"]


def test_one_head_of_keys_is_not_for_multi_head_attention() -> None:
    reason = "queries and keys have different heads"
    assert_refuses(attention, parse(ONE_HEAD), reason, target=WANTS_MHA)


# --- attention-joins-heads ---------------------------------------------------------------------


def test_attention_joins_heads() -> None:
    header = HEADER + "g (float[N,S,4,8] q, float[N,T,4,8] k, float[N,T,4,8] v)"
    before = parse(
        header + " => (float[N,S,4,8] y) { a = Transpose<perm=[0,2,1,3]>(q)"
        " b = Transpose<perm=[0,2,1,3]>(k) c = Transpose<perm=[0,2,1,3]>(v)"
        " d = Attention(a, b, c) y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    after = parse(
        header + " => (float[N,S,4,8] y) <int64[3] j = {0, 0, -1}, int64[4] s = {0, 0, 4, -1}>"
        "{ a = Reshape(q, j) b = Reshape(k, j) c = Reshape(v, j)"
        " d = Attention<q_num_heads=4, kv_num_heads=4>(a, b, c) y = Reshape(d, s) }"
    )
    assert_rewrites(attention_joins_heads, before, after, target=WANTS)


def test_heads_that_are_not_counted_stay_apart() -> None:
    before = parse(
        HEADER + "g (float[N,S,H,8] q, float[N,T,H,8] k, float[N,T,H,8] v) => (float[N,S,H,8] y)"
        "{ a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,1,3]>(k)"
        " c = Transpose<perm=[0,2,1,3]>(v) d = Attention(a, b, c)"
        " y = Transpose<perm=[0,2,1,3]>(d) }"
    )
    reason = "the number of heads is unknown"
    assert_refuses(attention_joins_heads, before, reason, target=WANTS)


def test_nothing_is_refused_twice(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ z = Abs(xb) {PLAIN} }}", opset=23, **NUMBERS)
    context = run_pass(attention, model, target=WANTS)
    assert refusals(context)["attention"] == {"the scores are not a product": 1}
