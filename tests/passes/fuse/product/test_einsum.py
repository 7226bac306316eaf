# SPDX-License-Identifier: Apache-2.0
"""Products that tf2onnx spells by joining and splitting axes.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.product.einsum import (
    FuseEinsum,
    bias_before_split,
    matmul_of_joined,
    matmul_of_rows,
    units_past_transpose,
)
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

Freeze = Callable[..., ir.Model]


def operators(model: ir.Model) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass(FuseEinsum(), model)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


# --- matmul-of-joined --------------------------------------------------------------------------

LEFT = "s = Shape(x) f = Gather(s, two) p = ReduceProd(f) c = Concat<axis=0>(p, minus, k)"
RIGHT = "t = Shape(x1) g = Gather(t, two) r = ReduceProd(g) d = Concat<axis=0>(r, minus, k)"
JOINED = (
    f"{{ {LEFT} {RIGHT} l = Reshape(x, c) m = Reshape(x1, d) n = Transpose<perm=[0,2,1]>(m)"
    " o = MatMul(l, n) y = Reshape(o, back) }"
)
SIGNATURE = (
    "g (float[N,2,5,1,4] x, float[N,2,1,3,4] x1, int64[2] two, int64[1] minus, int64[1] k,"
    " int64[4] back) => (float[N,2,5,3] y)"
)
SIZES = {"two": [0, 1], "minus": -1, "k": 4, "back": [-1, 2, 5, 3]}


def test_what_was_joined_is_multiplied_with_its_own_axes(freeze: Freeze) -> None:
    left = operators(freeze(SIGNATURE + JOINED, **SIZES))
    assert left == ["Squeeze", "Squeeze", "Transpose", "MatMul"]


def test_the_right_side_need_not_be_turned(freeze: Freeze) -> None:
    text = (SIGNATURE + JOINED).replace("MatMul(l, n)", "MatMul(l, m)")
    text = text.replace("n = Transpose<perm=[0,2,1]>(m)", "").replace("2,1,3,4] x1", "2,4,1,6] x1")
    text = text.replace("d = Concat<axis=0>(r, minus, k)", "d = Concat<axis=0>(r, minus, six)")
    text = text.replace("int64[1] k,", "int64[1] k, int64[1] six,").replace("5,3] y", "5,6] y")
    left = operators(freeze(text, **(SIZES | {"back": [-1, 2, 5, 6], "six": 6})))
    assert left == ["Squeeze", "Squeeze", "MatMul"]


@pytest.mark.parametrize(
    ("shapes", "given", "reason"),
    [
        (("N,2,5,1,4", "N,2,1,3,4"), {"two": [1, 0]}, "not the first axes are joined"),
        (("N,2,5,7,4", "N,2,1,3,4"), {}, "more than one axis is joined in the middle"),
        (("N,2,5,1,4", "N,2,1,3,4"), {"back": [0, 2, 5, 3]}, "without copied sizes"),
        (("N,2,5,2,2", "N,2,1,3,4"), {}, "more than one axis is joined in the middle"),
        (("N,2,5,1,8", "N,2,1,3,4"), {}, "the last axis is not kept"),
        (("2,3,5,1,4", "3,2,1,3,4"), {}, "other sizes are joined"),
    ],
)
def test_other_products_are_refused(
    freeze: Freeze, shapes: tuple[str, str], given: dict[str, list[int]], reason: str
) -> None:
    text = (SIGNATURE + JOINED).replace("N,2,5,1,4", shapes[0]).replace("N,2,1,3,4", shapes[1])
    text = text.replace("(float[N,2,5,3] y)", "(float[A,B,C,D] y)")
    assert_refuses(matmul_of_joined, freeze(text, **(SIZES | given)), reason)


# --- units-past-transpose ----------------------------------------------------------------------

UNITS = "{ u = Unsqueeze(x, in) t = Transpose<perm=[0,3,1,2]>(u) y = Squeeze(t, out) }"


def test_axes_that_come_and_go_are_not_moved() -> None:
    before = parse(
        "g (float[N,3,4] x) => (float[N,4,3] y)"
        f"<int64[1] in = {{2}}, int64[1] out = {{-1}}> {UNITS}"
    )
    after = parse("g (float[N,3,4] x) => (float[N,4,3] y) { y = Transpose<perm=[0,2,1]>(x) }")
    assert_rewrites(units_past_transpose, before, after)


def test_other_axes_are_refused() -> None:
    model = parse(
        f"g (float[N,1,4] x) => (float[N,4,1] y)<int64[1] in = {{2}}, int64[1] out = {{2}}> {UNITS}"
    )
    assert_refuses(units_past_transpose, model, "other axes go than have come")


# --- matmul-of-rows ----------------------------------------------------------------------------

ROWS = "g (float[N,5,4] x, int64[2] flat, float[4,3] w, int64[3] back) => (float[A,B,3] y)"
PRODUCT = "{ r = Reshape(x, flat) m = MatMul(r, w) y = Reshape(m, back) }"


def test_rows_are_multiplied_where_they_are(freeze: Freeze) -> None:
    text = (ROWS + PRODUCT).replace("A,B,3", "N,5,3")
    assert operators(freeze(text, flat=[-1, 4], back=[-1, 5, 3])) == ["MatMul"]


@pytest.mark.parametrize(
    ("sizes", "back", "reason"),
    [
        ("1,5,4", [5, 1, 3], "the axes behind are not those before"),
        ("1,4,5", [-1, 5, 3], "not the axes before the last are joined"),
    ],
)
def test_other_rows_are_refused(freeze: Freeze, sizes: str, back: list[int], reason: str) -> None:
    text = (ROWS + PRODUCT).replace("[N,5,4]", f"[{sizes}]")
    assert_refuses(matmul_of_rows, freeze(text, flat=[-1, 4], back=back), reason)


# --- bias-before-split -------------------------------------------------------------------------

SPLIT = "{ m = MatMul(x, w) r = Reshape(m, heads) y = Add(b, r) }"


def test_a_bias_goes_before_the_heads_are_split(freeze: Freeze) -> None:
    model = freeze(
        "g (float[N,5,4] x, float[4,6] w, int64[4] heads, float[2,3] b) => (float[N,5,2,3] y)"
        + SPLIT,
        heads=[-1, 5, 2, 3],
    )
    assert operators(model) == ["MatMul", "Add", "Reshape"]


@pytest.mark.parametrize("bias", ["float[3] b", "float[5,2,3] b", "float[2,1] b"])
def test_other_biases_are_refused(freeze: Freeze, bias: str) -> None:
    model = freeze(
        f"g (float[N,5,4] x, float[4,6] w, int64[4] heads, {bias}) => (float[N,5,2,3] y)" + SPLIT,
        heads=[-1, 5, 2, 3],
    )
    assert_refuses(bias_before_split, model, "not one number for each of the last axis")
