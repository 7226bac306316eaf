# SPDX-License-Identifier: Apache-2.0
"""Weights that are masked once more behind the softmax.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.attention.attention import FuseAttention
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass
from tests.passes.fuse.attention.conftest import WANTS, WANTS_MHA

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v, bool[N,1,2,3] m, float[N,4,2,3] b)
    => (float[N,4,2,8] y)
    <float zero = {0}, float low = {-3.4028234663852886e38}, float inf = {%s}, float high = {-9}> {
    t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) %s y = MatMul(p, v) }"""
# Two rows of the first batch, and one of the second: seen whole, in part, and not at all.
SEEN = np.array([[[True, True, True], [True, False, True]], [[False] * 3, [False, True, False]]])


def text(body: str) -> str:
    return TEXT % (float("-inf"), body)


@pytest.mark.parametrize("target", [WANTS, WANTS_MHA], ids=["standard", "microsoft"])
@pytest.mark.parametrize(
    "body",
    [
        "z = Where(m, s, low) w = Softmax(z) p = Where(m, w, zero)",
        "n = Not(m) z = Where(n, low, s) w = Softmax(z) p = Where(n, zero, w)",
        "n = Not(m) z = Where(m, s, low) w = Softmax(z) p = Where(n, zero, w)",
        "z = Where(m, s, inf) w = Softmax(z) p = Where(m, w, zero)",
        "r = Add(b, b) a = Add(s, r) z = Where(m, a, low) w = Softmax(z) p = Where(m, w, zero)",
    ],
)
def test_rows_that_are_masked_whole_become_zero(body: str, target: Target) -> None:
    model = parse(text(body))
    original = model.clone()
    run_pass(FuseAttention(), model, target=target)
    assert "Softmax" not in [node.op_type for node in model.graph]
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 4, 2, 8), "k": (2, 4, 3, 8), "v": (2, 4, 3, 8), "b": (2, 4, 2, 3)}
    feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    assert_same_outputs(original, model, feeds=feeds | {"m": SEEN[:, None]})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("w = Softmax(s) p = Where(m, w, zero)", "was not masked before it"),
        (
            "n = Not(m) z = Where(m, s, low) w = Softmax(z) p = Where(n, w, zero)",
            "was not masked before it",
        ),
        ("z = Where(m, s, high) w = Softmax(z) p = Where(m, w, zero)", "not far enough below"),
        (
            "c = Where(m, zero, low) e = Greater(b, zero) a = Add(s, c) z = Where(e, a, low)"
            " w = Softmax(z) p = Where(e, w, zero)",
            "not all are masks behind the softmax too",
        ),
    ],
    ids=["unmasked", "the others", "near", "several"],
)
def test_other_weights_that_are_chosen_stay(body: str, reason: str) -> None:
    assert_refuses(attention, parse(text(body)), reason, target=WANTS)
