# SPDX-License-Identifier: Apache-2.0
"""What scores are multiplied by: constants, a soft cap, and one number for each head.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses

import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses, assert_same_outputs, run_pass
from tests.passes.fuse.attention.conftest import (
    CPU,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_MHA,
    Freeze,
    fused,
)


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


CAPPED = f"{PRODUCT} d = Div(a, cap) h = Tanh(d) e = Mul(h, cap)"
CAPPED_SIGNATURE = SIGNATURE.replace("float c,", "float c, float cap,")
CAPS_SLOWLY = dataclasses.replace(
    CPU,
    preferences=(
        Preference("Attention-softcap", False, 0.4),
        Preference("microsoft.MultiHeadAttention", False, 0.97),
    ),
)


@pytest.mark.parametrize("mask", ["z = Add(e, xb)", "z = Where(xm, e, low)"])
def test_scores_that_are_capped(freeze: Freeze, mask: str) -> None:
    text = f"{CAPPED_SIGNATURE} {{ {CAPPED} {mask} {PLAIN} }}"
    model = freeze(text, opset=23, cap=0.7, **NUMBERS)
    original = model.clone()
    run_pass("fuse-attention", model, target=WANTS)
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes["softcap"].as_float() == pytest.approx(0.7)
    assert_same_outputs(original, model)


def test_a_scale_behind_a_cap(freeze: Freeze) -> None:
    """For c tanh(s / c) / 2 is no cap of s."""
    text = f"{CAPPED_SIGNATURE} {{ {CAPPED} z = Mul(e, root) {PLAIN} }}"
    model = freeze(text, opset=23, cap=0.7, **NUMBERS)
    assert_refuses(attention, model, "the scores are scaled behind a mask", target=WANTS)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (CAPS_SLOWLY, "target cpu runs it no faster fused (0.40x)"),
        (WANTS_MHA, "MultiHeadAttention does not cap its scores"),
    ],
    ids=["slow", "microsoft"],
)
def test_caps_that_are_not_wanted(freeze: Freeze, target: Target, reason: str) -> None:
    text = f"{CAPPED_SIGNATURE} {{ {CAPPED} z = Add(e, xb) {PLAIN} }}"
    model = freeze(text, opset=23, cap=0.7, **NUMBERS)
    assert_refuses(attention, model, reason, target=target)


def test_a_cap_behind_a_mask_is_none(freeze: Freeze) -> None:
    body = f"{PRODUCT} b = Add(a, xb) d = Div(b, cap) h = Tanh(d) z = Mul(h, cap) {PLAIN}"
    model = freeze(f"{CAPPED_SIGNATURE} {{ {body} }}", opset=23, cap=2, **NUMBERS)
    assert_refuses(attention, model, "capped behind a mask", target=WANTS)


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
