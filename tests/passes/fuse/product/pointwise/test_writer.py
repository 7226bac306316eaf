# SPDX-License-Identifier: Apache-2.0
"""Convolutions written for products give the same numbers in one layout.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.product.pointwise.pointwise import Pointwise
from burnish.testing import rewritten
from tests.passes.fuse.product.pointwise.conftest import (
    CONSTANTS,
    EAGER,
    MLP,
    Freeze,
    counts,
    products,
)

_GATED = (
    "m = MatMul(x, w)  h = MatMul(x, g)  s = Sigmoid(m)  t = Mul(m, s)  a = Mul(t, h)"
    "  y = MatMul(a, u)"
)


@pytest.mark.parametrize(
    ("body", "convs"),
    [
        ("y = MatMul(x, w)", 1),
        ("m = MatMul(x, w)  y = Add(b, m)", 1),
        (MLP, 2),
        (_GATED, 3),
        ("m = MatMul(x, w)  h = QuickGelu<alpha=1.0>(m)  y = MatMul(h, u)", 2),
        ("m = MatMul(x, w)  n = MatMul(m, u)  p = Relu(n)  y = MatMul(p, g)", 3),
    ],
)
@pytest.mark.parametrize(
    ("x", "y"),
    [("float[B,S,8]", "float[B,S,N]"), ("float[2,3,5,8]", "float[2,3,5,N]")],
)
def test_what_lies_between_products_is_in_one_layout(
    freeze: Freeze, body: str, convs: int, x: str, y: str
) -> None:
    body = body.replace("QuickGelu", "com.microsoft.QuickGelu")
    if "4" in x or "5" in x:
        body = body.replace("(c, n)", "(n, c)")
    before = products(freeze, body, x=x, y=y)
    after = rewritten(Pointwise(), before, target=EAGER)
    found = counts(after)
    assert "MatMul" not in found
    assert (found["Conv"], found["Transpose"]) == (convs, 2)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm<transB=1>(x, w8, b)",
        "m = Gemm<transB=1>(x, w8, b)  h = Relu(m)  y = Gemm(h, u)",
    ],
)
def test_a_row_is_a_map_of_one_pixel(freeze: Freeze, body: str) -> None:
    before = freeze(
        "g (float[1,8] x, float[12,8] w8, float[12] b, float[12,8] u) => (float[1,N] y)"
        f" {{ {body} }}"
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    found = counts(after)
    assert (found["Gemm"], found["Unsqueeze"], found["Flatten"]) == (0, 1, 1)


@pytest.mark.parametrize(
    "view",
    [
        "f = Flatten(x)",
        "f = Reshape<allowzero=0>(x, shape)",
        "f0 = Flatten(x)  f = Relu(f0)",
    ],
)
def test_a_flattened_map_is_convolved_as_it_is(freeze: Freeze, view: str) -> None:
    before = freeze(
        "g (float[1,4,3,2] x, float[24,8] w, float[8] b, float[8,4] u, int64[2] shape)"
        f" => (float[1,4] y) {{ {view}  m = Gemm(f, w, b)  h = Relu(m)  y = Gemm(h, u) }}",
        shape=np.array([1, -1]),
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    kernels = [node.inputs[1].shape for node in after.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert [tuple(shape or ()) for shape in kernels] == [(8, 4, 3, 2), (4, 8, 1, 1)]
    assert len(after.graph) == len(before.graph)


def test_a_map_that_is_turned_to_the_front_again_never_left_it(freeze: Freeze) -> None:
    body = MLP.replace("y = Add", "z = Add") + "  y = Transpose<perm = [0, 3, 1, 2]>(z)"
    model = products(freeze, body, x="float[B,4,5,8]", y="float[B,8,4,5]")
    after = rewritten(Pointwise(), model)
    assert counts(after)["Conv"] == 2
    assert counts(after)["Transpose"] == 1


def test_products_of_one_input_share_its_reordering(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, {CONSTANTS}) => (float[B,S,12] y, float[B,S,12] z)"
        " { m = MatMul(x, w)  y = Add(m, b)  z = MatMul(x, g) }"
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert counts(after) == {"Unsqueeze": 1, "Transpose": 3, "Conv": 2, "Squeeze": 2}


def test_weights_of_two_products_stay_one(freeze: Freeze) -> None:
    before = products(
        freeze, "m = MatMul(x, w)  h = Relu(m)  n = MatMul(h, u)  p = Tanh(n)  y = MatMul(p, w)"
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert len(after.graph.initializers) == 3  # two weights, and the axis of two views


def test_weights_read_in_two_ways_are_written_in_two(freeze: Freeze) -> None:
    """As they are and turned; of a flattened map and of a row."""
    turned = freeze(
        "g (float[1,8] x, float[8,8] w) => (float[1,8] y)"
        " { a = Gemm(x, w)  h = Relu(a)  y = Gemm<transB=1>(h, w) }"
    )
    flat = freeze(
        "g (float[1,2,2,2] x, float[8,8] w) => (float[1,8] y)"
        " { f = Flatten(x)  a = Gemm(f, w)  h = Relu(a)  y = Gemm(h, w) }"
    )
    for before in (turned, flat):
        after = rewritten(Pointwise(), before, target=EAGER)
        assert counts(after)["Conv"] == 2


def test_a_bias_of_more_axes_is_no_bias(freeze: Freeze) -> None:
    before = freeze(
        "g (float[2,3,5,8] x, float[8,12] w, float[1,1,1,1,12] b) => (float[1,2,3,5,12] y)"
        " { m = MatMul(x, w)  y = Add(m, b) }"
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert (counts(after)["Conv"], counts(after)["Add"]) == (1, 1)
