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
from burnish.frontends import load
from burnish.passes.fuse.attention.attention import attention
from burnish.passes.fuse.attention.scores import QUANTIZED
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
    " float low, float high, float minusinf, float thousands, bool[N,1,2,3] xm, float[N,4,2,3] xb)"
    " => (float[N,4,2,8] y)"
)
NUMBERS = {"c": 0.25, "root": 0.5, "zero": 0.0, "low": LOWEST, "high": -LOWEST, "minusinf": -np.inf}
NUMBERS |= {"thousands": -1e4}


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
        "z = Sub(a, xb)",
        "b = Where(xm, zero, high) z = Sub(a, b)",
        "b = Sub(a, xb) e = Mul(b, root) z = Add(e, xb)",
        "z = Where(xm, a, thousands)",
        "b = Where(xm, zero, low) e = Add(a, b) z = Max(e, low)",
        "b = Where(xm, zero, minusinf) e = Add(a, b) z = Max(low, e)",
        "b = Where(xm, xb, minusinf) e = Add(a, b) z = Max(e, low)",
        "b = Where(xm, a, minusinf) z = Max(b, low)",
        "z = Max(a, low)",
    ],
)
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_masks(freeze: Freeze, mask: str, end: str, target: Target) -> None:
    """Random conditions mask some rows whole: these are compared too."""
    model = freeze(SIGNATURE + f"{{ {PRODUCT} {mask} {end} }}", opset=23, **NUMBERS)
    operators = fused(model, target)
    assert "Softmax" not in operators
    assert len({"Attention", "MultiHeadAttention"} & set(operators)) == 1


@pytest.mark.parametrize("mask", ["2,3", "4,2,3", "1,2,3"])
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_masks_of_fewer_axes(freeze: Freeze, mask: str, target: Target) -> None:
    signature = SIGNATURE.replace("[N,4,2,3] xb", f"[{mask}] xb")
    model = freeze(f"{signature} {{ {PRODUCT} z = Add(a, xb) {PLAIN} }}", opset=23, **NUMBERS)
    assert "Softmax" not in fused(model, target)


@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_a_guarded_mask_of_minus_infinity(freeze: Freeze, target: Target) -> None:
    body = f"{{ {PRODUCT} b = Where(xm, zero, minusinf) z = Add(a, b) {GUARD} }}"
    assert "Softmax" not in fused(freeze(SIGNATURE + body, opset=23, **NUMBERS), target)


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


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        ("1,4,2,8", "N,4,3,8", "N,4,3,8", "to have the same batch size"),
        ("N,H,2,8", "N,H,3,8", "N,H,3,8", "the number of heads is unknown"),
        ("4,2,8", "4,3,8", "1,4,3,8", "not of rank 4"),
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


def test_the_operator_set_stays_where_the_target_would_not_run_all_of_it() -> None:
    model = parse(
        "g (float[2,3] x, float[3,2] v) => (float[2,2] y)"
        " { p = Softmax(x) m = MatMul(p, v) r = RandomNormalLike<scale=0.0>(m) y = Add(m, r) }"
    )
    reason = "target cpu does not run RandomNormalLike of float at 23"
    assert_refuses("attention-opset", model, reason, target=WANTS)


def test_the_operator_set_of_a_classifier_stays() -> None:
    model = parse(
        "g (float[2,3,1,1] x) => (float[2,3] y) <int64[2] s = {2, 3}>"
        "{ p = Softmax<axis=1>(x) y = Reshape(p, s) }"
    )
    run_pass("attention-opset", model, target=WANTS)
    assert model.opset_imports[""] == 21


# --- scales and caps ---------------------------------------------------------------------------

CAPPED = f"{PRODUCT} d = Div(a, cap) h = Tanh(d) e = Mul(h, cap)"
CAPPED_SIGNATURE = SIGNATURE.replace("float c,", "float c, float cap,")
CAPS_SLOWLY = dataclasses.replace(CPU, preferences=(Preference("Attention-softcap", False, 0.4),))


@pytest.mark.parametrize(
    "end", [f"z = Add(e, xb) {PLAIN}", f"z = Where(xm, e, low) {PLAIN}", "z = Mul(e, one) " + PLAIN]
)
def test_scores_that_are_capped(freeze: Freeze, end: str) -> None:
    signature = CAPPED_SIGNATURE.replace("float c,", "float c, float one,")
    model = freeze(f"{signature} {{ {CAPPED} {end} }}", opset=23, cap=0.7, one=0.5, **NUMBERS)
    original = model.clone()
    if "Mul(e, one)" in end:  # c tanh(s / c) / 2 is no cap of s
        reason = "the scores are scaled behind a mask"
        assert_refuses(attention, model, reason, target=WANTS)
        return
    run_pass("fuse-attention", model, target=WANTS)
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes["softcap"].as_float() == pytest.approx(0.7)
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (CAPS_SLOWLY, "target cpu runs it no faster fused (0.40x)"),
        (WANTS_MHA, "MultiHeadAttention does not cap its scores"),
    ],
    ids=["slow", "microsoft"],
)
def test_caps_that_are_not_wanted(freeze: Freeze, target: Target, reason: str) -> None:
    if target is CAPS_SLOWLY:
        slow = Preference("microsoft.MultiHeadAttention", False, 0.97)
        target = dataclasses.replace(target, preferences=(*target.preferences, slow))
    text = f"{CAPPED_SIGNATURE} {{ {CAPPED} z = Add(e, xb) {PLAIN} }}"
    model = freeze(text, opset=23, cap=0.7, **NUMBERS)
    assert_refuses(attention, model, reason, target=target)


def test_a_cap_behind_a_mask_is_none(freeze: Freeze) -> None:
    body = f"{PRODUCT} b = Add(a, xb) d = Div(b, cap) h = Tanh(d) z = Mul(h, cap) {PLAIN}"
    model = freeze(f"{CAPPED_SIGNATURE} {{ {body} }}", opset=23, cap=2, **NUMBERS)
    assert_refuses(attention, model, "capped behind a mask", target=WANTS)


LARGEST = SIGNATURE.replace("float c,", "float c, int64[1] last, int64[1] heads,")
AXES = {"last": -1, "heads": 1}


@pytest.mark.parametrize(
    "largest",
    [
        "m = ReduceMax<keepdims=1>(b, last)",
        "r = ReduceMax<keepdims=0>(b, last) m = Unsqueeze(r, last)",
    ],
)
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_the_largest_score_is_taken_off(freeze: Freeze, largest: str, target: Target) -> None:
    """As LayoutLMv3 keeps its scores small: masked and divided first, multiplied again after."""
    body = f"{PRODUCT} e = Where(xm, a, low) b = Mul(e, root) {largest} d = Sub(b, m)"
    model = freeze(f"{LARGEST} {{ {body} z = Div(d, root) {PLAIN} }}", opset=23, **AXES, **NUMBERS)
    operators = fused(model, target)
    assert "Softmax" not in operators
    assert "ReduceMax" not in operators


@pytest.mark.parametrize(
    "rest",
    [
        "m = ReduceMax<keepdims=1>(b, heads) z = Sub(b, m)",
        "m = ReduceMax<keepdims=1>(b, last) d = Sub(b, m) z = Add(d, m)",
    ],
)
def test_something_else_is_taken_off(freeze: Freeze, rest: str) -> None:
    text = f"{LARGEST} {{ {PRODUCT} b = Mul(a, root) {rest} {PLAIN} }}"
    model = freeze(text, opset=23, **AXES, **NUMBERS)
    assert_refuses(attention, model, "the scores are used elsewhere too", target=WANTS)


BY_HEAD = SIGNATURE.replace("float c,", "float c, float[4,1,1] v,")


@pytest.mark.parametrize("product", ["z = Mul(a, v)", "e = Mul(v, a) z = Add(e, xb)"])
def test_a_scale_for_each_head(freeze: Freeze, product: str) -> None:
    """As Swin V2 has it."""
    model = freeze(f"{BY_HEAD} {{ {PRODUCT} {product} {PLAIN} }}", opset=23, **NUMBERS)
    assert fused(model) == ["Mul", "Attention"]


def test_a_scale_for_each_head_behind_a_mask(freeze: Freeze) -> None:
    text = f"{BY_HEAD} {{ {PRODUCT} e = Add(a, xb) z = Mul(e, v) {PLAIN} }}"
    model = freeze(text, opset=23, **NUMBERS)
    assert_refuses(attention, model, "scaled behind a mask", target=WANTS)


# --- three axes ---------------------------------------------------------------------------------

FLAT = (
    "g (float[B,2,8] xq, float[B,3,8] xk, float[B,3,6] xv, float c, float zero, float low,"
    " float[%s] xb, bool[2,3] xm) => (float[B,2,6] y)"
)


@pytest.mark.parametrize("mask", ["B,2,3", "B,1,3", "2,3", "1,1,3"])
@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose<perm=[0,2,1]>(xk) s = MatMul(xq, t) a = Mul(s, c) z = Add(a, xb)",
        "t = Transpose<perm=[0,2,1]>(xk) s = MatMul(xq, t) a = Sub(s, xb) z = Where(xm, a, low)",
    ],
)
@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
def test_heads_and_batches_on_one_axis(
    freeze: Freeze, mask: str, body: str, target: Target
) -> None:
    """As WavLM has them, and what torch's multi-head attention exports where it gives weights."""
    text = f"{FLAT % mask} {{ {body} p = Softmax<axis=-1>(z) y = MatMul(p, xv) }}"
    numbers = {"c": 0.25, "zero": 0.0, "low": LOWEST}
    operators = fused(freeze(text, opset=23, **numbers), target)
    assert "Softmax" not in operators
    assert len({"Attention", "MultiHeadAttention"} & set(operators)) == 1


def test_keys_that_come_transposed_on_three_axes() -> None:
    text = "g (float[B,2,8] q, float[B,8,3] k, float[B,3,6] v) => (float[B,2,6] y)"
    model = parse(f"{HEADER}{text} {{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }}")
    assert "Attention" in fused(model)


# --- float16 -----------------------------------------------------------------------------------

HALF = SIGNATURE.replace("float[N", "float16[N").replace("float16[N,4,2,3] xb", "float[N,4,2,3] xb")
WIDE = "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) f = Cast<to=1>(s) a = Mul(f, c)"


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


def test_queries_and_values_of_different_types_are_refused(freeze: Freeze) -> None:
    body = f"{WIDE} p = Softmax(a) w = Cast<to=1>(xv) o = MatMul(p, w) y = Cast<to=10>(o)"
    model = freeze(f"{HALF} {{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(attention, model, "different types", target=WANTS)


def test_bfloat16_is_left_where_no_kernel_is() -> None:
    signature = "g (bfloat16[N,4,2,8] q, bfloat16[N,4,3,8] k, bfloat16[N,4,3,8] v)"
    model = parse(
        f"{HEADER}{signature} => (bfloat16[N,4,2,8] y) {{ t = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, t) f = Cast<to=1>(s) p = Softmax(f) h = Cast<to=16>(p) y = MatMul(h, v) }"
    )
    reason = "target cpu does not run Attention of bfloat16 at opset 23"
    assert_refuses(attention, model, reason, target=WANTS)


@pytest.mark.parametrize("low", [-65504.0, -np.inf])
def test_masks_of_float16(freeze: Freeze, low: float) -> None:
    """No row is masked whole; in float16, what such a row gives is a matter of rounding."""
    signature = HALF.replace("float low", "float16 low").replace("float zero", "float16 zero")
    signature = signature.replace("float c", "float16 c").replace("bool[N,1,2,3] xm", "bool[3] m")
    body = (
        "t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t) a = Mul(s, c)"
        f" b = Where(m, zero, low) z = Add(a, b) {GUARD if low == -np.inf else PLAIN}"
    )
    numbers = NUMBERS | {"low": low}
    model = freeze(f"{signature} {{ {body} }}", opset=23, m=np.array([1, 0, 1]), **numbers)
    assert "Attention" in fused(model)


# --- heads one behind another, and windows -----------------------------------------------------

BEHIND = (
    "g (float[N,4,S,8] xq, float[N,4,T,8] xk, float[N,4,T,8] xv, float[%s] xb, int64[3] m,"
    " int64[3] three, int64[4] four, int64[4] out) => (float[N,4,S,8] y) {"
    " q = Reshape(xq, m) k = Reshape(xk, m) v = Reshape(xv, m) t = Transpose<perm=[0,2,1]>(k)"
    " s = MatMul(q, t) b = Add(s, xb) z = Reshape(b, four) p = Softmax(z) w = Reshape(p, three)"
    " o = MatMul(w, v) y = Reshape(o, out) }"
)
TARGETS = {"m": [-1, 5, 8], "three": [-1, 5, 5], "four": [2, 4, 5, 5], "out": [2, 4, 5, 8]}


@pytest.mark.parametrize("mask", ["8,1,5", "8,5,5"])
def test_a_mask_of_heads_one_behind_another(freeze: Freeze, mask: str) -> None:
    """ALiBi as BLOOM has it: a row for all queries of a head."""
    text = (BEHIND % mask).replace("[N,4,S,8]", "[2,4,5,8]").replace("[N,4,T,8]", "[2,4,5,8]")
    model = freeze(text, opset=23, **{name: np.array(item) for name, item in TARGETS.items()})
    assert "Attention" in fused(model)


@pytest.mark.parametrize("mask", ["1,5,5", "8,5,1", "1,1,5"])
def test_a_mask_that_is_broadcast_over_heads_one_behind_another(freeze: Freeze, mask: str) -> None:
    text = (BEHIND % mask).replace("[N,4,S,8]", "[2,4,5,8]").replace("[N,4,T,8]", "[2,4,5,8]")
    model = freeze(text, opset=23, **{name: np.array(item) for name, item in TARGETS.items()})
    assert_refuses(attention, model, "a mask of three axes is not added", target=WANTS)


def test_a_zero_that_is_added_is_no_mask(freeze: Freeze) -> None:
    """As torch.baddbmm leaves it behind."""
    text = (BEHIND % "1,1,1").replace("[N,4,S,8]", "[2,4,5,8]").replace("[N,4,T,8]", "[2,4,5,8]")
    given = {name: np.array(item) for name, item in TARGETS.items()}
    text = text.replace("float[1,1,1] xb", "float[1,1,1] nought").replace("xb)", "nought)")
    assert "Attention" in fused(freeze(text, opset=23, nought=0.0, **given))


WINDOWED = (
    "g (float[6,4,5,8] xq, float[6,4,5,8] xk, float[6,4,5,8] xv, float[%s] xb, int64[5] five,"
    " int64[4] four) => (float[6,4,5,8] y) { t = Transpose<perm=[0,1,3,2]>(xk) s = MatMul(xq, t)"
    " w = Reshape(s, five) b = Add(w, xb) c = Add(xb, b) z = Reshape(c, four) p = Softmax(z)"
    " y = MatMul(p, xv) }"
)
WINDOWS = {"five": np.array([2, 3, 4, 5, 5]), "four": np.array([6, 4, 5, 5])}


def test_a_mask_for_each_window(freeze: Freeze) -> None:
    """As Swin has it for windows that are shifted; added twice, as Swin V2 does."""
    model = freeze(WINDOWED % "1,3,1,5,5", opset=23, **WINDOWS)
    operators = fused(model)
    assert "Attention" in operators
    assert "Softmax" not in operators


@pytest.mark.parametrize("mask", ["2,3,1,5,5", "1,3,4,5,5", "1,1,1,5,5"])
def test_other_masks_of_five_axes(freeze: Freeze, mask: str) -> None:
    model = freeze(WINDOWED % mask, opset=23, **WINDOWS)
    assert_refuses(attention, model, "not one for each window", target=WANTS)


# --- shared heads ------------------------------------------------------------------------------


REPEATED = {
    "expand": "u{0} = Unsqueeze(x{0}, two) e{0} = Expand(u{0}, many) r{0} = Reshape(e{0}, joined)",
    "tile": "u{0} = Unsqueeze(x{0}, two) e{0} = Tile(u{0}, times) r{0} = Reshape(e{0}, joined)",
    "gather": "r{0} = Gather<axis=1>(x{0}, runs)",
    "tile one": "r{0} = Tile(x{0}, once)",
    "expand one": "r{0} = Expand(x{0}, joined)",
    "concat one": "r{0} = Concat<axis=1>(x{0}, x{0}, x{0}, x{0})",
}
NOT_REPEATED = {
    "in turns": "r{0} = Tile(x{0}, once)",
    "in turns by concat": "r{0} = Concat<axis=1>(x{0}, x{0})",
    "in turns by gather": "r{0} = Gather<axis=1>(x{0}, turns)",
}


def repeated(freeze: Freeze, heads: int, spelling: str) -> ir.Model:
    """Attention of 4 heads of queries, whose keys and values are repeated."""
    times = 4 // heads
    return freeze(
        f"g (float[2,4,2,8] xq, float[2,{heads},3,8] xk, float[2,{heads},3,8] xv, int64[1] two,"
        " int64[5] many, int64[5] times, int64[4] joined, int64[4] once, int64[4] runs,"
        f" int64[4] turns) => (float[2,4,2,8] y) {{ {spelling.format('k')} {spelling.format('v')}"
        " t = Transpose<perm=[0,1,3,2]>(rk) s = MatMul(xq, t) p = Softmax(s) y = MatMul(p, rv) }",
        opset=23,
        two=2,
        many=np.array([2, heads, times, 3, 8]),
        times=np.array([1, 1, times, 1, 1]),
        joined=np.array([2, 4, 3, 8]),
        once=np.array([1, times, 1, 1]),
        runs=np.repeat(np.arange(heads), times),
        turns=np.tile(np.arange(heads), times),
    )


@pytest.mark.parametrize(
    ("heads", "spelling"),
    [
        *((heads, name) for name in ("expand", "tile", "gather") for heads in (1, 2)),
        *((1, name) for name in ("tile one", "expand one", "concat one")),
    ],
)
def test_heads_of_keys_that_several_queries_share(
    freeze: Freeze, heads: int, spelling: str
) -> None:
    model = repeated(freeze, heads, REPEATED[spelling])
    assert fused(model) == ["Attention"]


@pytest.mark.parametrize("spelling", NOT_REPEATED)
def test_heads_of_keys_in_turns_stay_repeated(freeze: Freeze, spelling: str) -> None:
    """Queries 0 and 2 share a head here, not 0 and 1."""
    operators = fused(repeated(freeze, 2, NOT_REPEATED[spelling]))
    assert "Attention" in operators
    assert len(operators) == 3


ONE_HEAD = (
    f"{HEADER} g (float[N,4,2,8] q, float[N,1,3,8] k, float[N,1,3,8] v) => (float[N,4,2,8] y)"
    "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }"
)


def test_one_head_of_keys_that_all_queries_share() -> None:
    assert fused(parse(ONE_HEAD)) == ["Attention"]


def test_one_head_of_keys_is_not_for_multi_head_attention() -> None:
    reason = "queries and keys have different heads"
    assert_refuses(attention, parse(ONE_HEAD), reason, target=WANTS_MHA)


def test_nothing_is_refused_twice(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ z = Abs(xb) {PLAIN} }}", opset=23, **NUMBERS)
    context = run_pass(attention, model, target=WANTS)
    assert refusals(context)["attention"] == {"the scores are not a product": 1}


# --- quantized already -------------------------------------------------------------------------

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
