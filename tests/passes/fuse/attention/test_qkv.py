# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values that fit together, and that do not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses, parse
from tests.passes.fuse.attention.conftest import (
    HALF,
    HEADER,
    LOWEST,
    NUMBERS,
    WANTS,
    WANTS_MHA,
    WIDE,
    Freeze,
    fused,
)


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


def test_queries_and_values_of_different_types_are_refused(freeze: Freeze) -> None:
    body = f"{WIDE} p = Softmax(a) w = Cast<to=1>(xv) o = MatMul(p, w) y = Cast<to=10>(o)"
    model = freeze(f"{HALF} {{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(attention, model, "different types", target=WANTS)


ONE_HEAD = (
    f"{HEADER} g (float[N,4,2,8] q, float[N,1,3,8] k, float[N,1,3,8] v) => (float[N,4,2,8] y)"
    "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }"
)


def test_one_head_of_keys_that_all_queries_share() -> None:
    assert fused(parse(ONE_HEAD)) == ["Attention"]


def test_one_head_of_keys_is_not_for_multi_head_attention() -> None:
    reason = "queries and keys have different heads"
    assert_refuses(attention, parse(ONE_HEAD), reason, target=WANTS_MHA)
