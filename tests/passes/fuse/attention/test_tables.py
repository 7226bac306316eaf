# SPDX-License-Identifier: Apache-2.0
"""Masks that are tables of zeros and ones, multiplied with the scores."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.attention import FuseAttention
from burnish.passes.fuse.attention.tables import choice_by_table
from burnish.testing import assert_becomes, assert_refuses, assert_rewrites, parse
from tests.passes.fuse.attention.conftest import WANTS

TABLE = np.tri(6, dtype=np.float32)[None, None]
SIGNATURE = "g (float[N,4,%s,%s] x) => (float[N,4,S,S] y)"
CONSTANTS = (
    " <float one = {1}, float low = {-10000}, float high = {10000}, int64[2] from = {0, 0},"
    " int64[2] axes = {2, 3}, float[1,1,6,6] table, float[1,1,6,6] rest>"
)
CUT = "n = Shape<start=2, end=3>(x) to = Concat<axis=0>(n, n) b = Slice(table, from, to, axes)"
WHOLE = "b = Identity(table)"
END = "y = Softmax<axis=-1>(z)"


def text(body: str, size: str = "S") -> str:
    return SIGNATURE % (size, size) + CONSTANTS + "{" + body + "}"


@pytest.mark.parametrize("table", [CUT, WHOLE], ids=["cut", "whole"])
@pytest.mark.parametrize(
    "choice",
    [
        "p = Mul(x, b) c = Sub(one, b) d = Mul(c, low) z = Add(p, d)",
        "p = Mul(b, x) c = Sub(one, b) d = Mul(high, c) z = Sub(p, d)",
    ],
)
def test_a_sum_of_products_becomes_a_choice(table: str, choice: str) -> None:
    size = "S" if table == CUT else "6"
    weights = {"table": TABLE, "rest": TABLE}
    before = parse(text(f"{table} {choice} {END}", size), **weights)
    body = f"{table} m = Cast<to=9>(b) z = Where(m, x, low) {END}"
    tokens = 5 if table == CUT else 6
    x = np.random.default_rng(0).standard_normal((2, 4, tokens, tokens), np.float32)
    assert_rewrites(choice_by_table, before, parse(text(body, size), **weights), feeds={"x": x})


def test_a_choice_of_which_all_but_the_scores_is_constant() -> None:
    weights = {"table": TABLE, "rest": (1 - TABLE) * np.float32(-1e4)}
    before = parse(text(f"p = Mul(x, table) z = Add(rest, p) {END}", "6"), **weights)
    after = parse(text(f"m = Cast<to=9>(table) z = Where(m, x, low) {END}", "6"), **weights)
    assert_rewrites(choice_by_table, before, after)


@pytest.mark.parametrize(
    ("body", "table", "reason"),
    [
        ("p = Mul(x, b) c = Sub(one, b) d = Mul(c, low) y = Add(p, d)", TABLE, "into no softmax"),
        (
            f"p = Mul(x, b) c = Sub(one, b) d = Mul(c, low) z = Add(p, d) {END}",
            TABLE / 2,
            "no table of zeros and ones",
        ),
        (f"p = Mul(x, table) z = Add(p, rest) {END}", TABLE, "not one number"),
    ],
    ids=["no scores", "a half", "the sum of others"],
)
def test_other_products_stay(body: str, table: np.ndarray, reason: str) -> None:
    weights = {"table": table, "rest": TABLE}
    assert_refuses(choice_by_table, parse(text(f"{WHOLE} {body}", "6"), **weights), reason)


def test_the_attention_is_found() -> None:
    signature = '<ir_version: 10, opset_import: ["": 23]> g (float[N,4,6,8] q, float[N,4,6,8] k,'
    body = (
        " float[N,4,6,8] v) => (float[N,4,6,8] y)"
        + CONSTANTS
        + "{ t = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, t) p = Mul(s, table) z = Add(p, rest) w = Softmax(z) y = MatMul(w, v) }"
    )
    weights = {"table": TABLE, "rest": (1 - TABLE) * np.float32(-1e4)}
    model = parse(signature + body, **weights)
    assert_becomes(FuseAttention(), model, ["Attention"], target=WANTS)
