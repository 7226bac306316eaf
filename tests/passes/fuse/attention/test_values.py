# SPDX-License-Identifier: Apache-2.0
"""Attentions of the same weights on two values, as DiffLlama has."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.attention.attention import FuseAttention
from burnish.passes.fuse.attention.values import values_side_by_side
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.attention.conftest import WANTS

SIGNATURE = (
    '<ir_version: 10, opset_import: ["": 23]>'
    "g (float[N,4,5,6] s, float[N,4,6,8] a, float[N,4,6,7] b) => (float[N,4,5,15] y)"
)
SWAPPED = SIGNATURE.replace("N,4,5,15", "N,5,4,15")
WEIGHTS = "w = Softmax(s)"
GUARDED = "p = Softmax(s) n = IsNaN(p) w = Where(n, zero, p)"
ZERO = "<float zero = {0}>"


@pytest.mark.parametrize("weights", [WEIGHTS, GUARDED], ids=["plain", "guarded"])
def test_values_are_put_side_by_side(weights: str) -> None:
    body = "c = MatMul(w, a) d = MatMul(w, b) y = Concat<axis=-1>(c, d)"
    before = parse(SIGNATURE + ZERO + "{" + weights + body + "}")
    joined = "v = Concat<axis=-1>(a, b) y = MatMul(w, v)"
    assert_rewrites(
        values_side_by_side, before, parse(SIGNATURE + ZERO + "{" + weights + joined + "}")
    )


def test_also_behind_the_transposes_of_heads() -> None:
    before = parse(
        SWAPPED + "{" + WEIGHTS + " c = MatMul(w, a) d = MatMul(w, b)"
        " e = Transpose<perm=[0,2,1,3]>(c) f = Transpose<perm=[0,2,1,3]>(d)"
        " y = Concat<axis=-1>(e, f) }"
    )
    after = parse(
        SWAPPED + "{" + WEIGHTS + " v = Concat<axis=-1>(a, b) c = MatMul(w, v)"
        " y = Transpose<perm=[0,2,1,3]>(c) }"
    )
    assert_rewrites(values_side_by_side, before, after)


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        ("w = Abs(s)", "N,4,6,7", "not what a softmax gives"),
        ("w = Softmax(s) z = Abs(w)", "N,4,6,7", "used elsewhere too"),
        (WEIGHTS, "1,4,6,7", "of the same batches and heads"),
        (WEIGHTS, "6,7", "not of rank 4"),
    ],
)
def test_other_products_stay(body: str, values: str, reason: str) -> None:
    text = SIGNATURE.replace("N,4,6,7", values).replace("y)", "y, float[N,4,5,6] z)")
    more = "" if "z =" in body else " z = Abs(s)"
    body += " c = MatMul(w, a) d = MatMul(w, b) y = Concat<axis=-1>(c, d)" + more
    assert_refuses(values_side_by_side, parse(text + "{" + body + "}"), reason)


def test_both_become_one_attention() -> None:
    text = """<ir_version: 10, opset_import: ["": 23]>
        g (float[N,4,5,8] q, float[N,4,6,8] k, float[N,4,6,8] a, float[N,4,6,8] b)
        => (float[N,4,5,16] y) {
        t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) w = Softmax(s)
        c = MatMul(w, a) d = MatMul(w, b) y = Concat<axis=-1>(c, d) }"""
    assert_becomes(FuseAttention(), parse(text), ["Concat", "Attention"], target=WANTS)
