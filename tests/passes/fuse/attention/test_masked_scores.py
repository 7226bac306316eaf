# SPDX-License-Identifier: Apache-2.0
"""Masks in the spellings of exporters, floors, and the largest of each row taken off.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses
from tests.passes.fuse.attention.conftest import (
    GUARD,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_MHA,
    Freeze,
    fused,
)


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
