# SPDX-License-Identifier: Apache-2.0
"""Transposes between tokens and maps stand where the runtime's blocked layout takes them in.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.target import Target
from burnish.passes.layout import Layout
from burnish.passes.layout.maps import map_to_tokens, product_to_map, tokens_to_map
from burnish.passes.rule import Rule
from burnish.testing import assert_becomes, assert_refuses, parse, rewrites, run_pass

_CPU = dataclasses.replace(Target.parse("cpu"), isa=frozenset({"avx2", "avx512"}))
_TO_MAP = "t = Transpose<perm=[0,2,1]>(x) m = Reshape(t, map)"
_CONV = "c = Conv<group=16, pads=[1,1,1,1]>(m, w)"
_TO_ROWS = "r = Reshape(c, rows) y = Transpose<perm=[0,2,1]>(r)"
_BLOCK = f"{_TO_MAP} {_CONV} {_TO_ROWS}"


def _model(body: str, *, x: str = "N,12,16", y: str = "N,12,16", to: str = "0,16,3,4") -> ir.Model:
    w = np.linspace(-1, 1, 16 * 9, dtype=np.float32).reshape(16, 1, 3, 3)
    return parse(
        f"g (float[{x}] x) => (float[{y}] y)"
        f"<int64[4] map = {{{to}}}, int64[3] rows = {{0,16,-1}}> {{ {body} }}",
        w=w,
    )


@pytest.mark.parametrize(
    "body",
    [_BLOCK, f"{_TO_MAP} a = Conv<group=16, pads=[1,1,1,1]>(m, w) c = Relu(a) {_TO_ROWS}"],
    ids=["alone", "with an activation"],
)
def test_channels_are_last_outside_the_layout(body: str) -> None:
    relu = ["Relu"] * ("Relu" in body)
    operators = ["Reshape", "Transpose", "Conv", *relu, "Transpose", "Reshape"]
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 12, 16)).astype(np.float32)}
    assert_becomes(Layout(), _model(body), operators, target=_CPU, feeds=feeds)


@pytest.mark.parametrize("between", ["", "Gelu"])
def test_products_multiply_channels_last(between: str) -> None:
    body = (
        "p = MatMul(z, u) x = Add(b, p)"
        f" {_TO_MAP} {_CONV} {_TO_ROWS.replace('y =', 't2 =')}"
        f" {f't3 = {between}(t2)' if between else 't3 = Identity(t2)'}"
        " q = MatMul(t3, v) y = Add(q, b)"
    )
    weights = {
        "w": np.linspace(-1, 1, 16 * 9, dtype=np.float32).reshape(16, 1, 3, 3),
        "u": np.linspace(-1, 1, 8 * 16, dtype=np.float32).reshape(8, 16),
        "v": np.linspace(1, -1, 16 * 16, dtype=np.float32).reshape(16, 16),
        "b": np.linspace(0, 1, 16, dtype=np.float32),
    }
    model = parse(
        "g (float[N,12,8] z) => (float[N,12,16] y)"
        f" <int64[4] map = {{0,16,3,4}}, int64[3] rows = {{0,16,-1}}> {{ {body} }}",
        **weights,
    )
    product = ["MatMul", "Add"]
    operators = ["Reshape", *product, "Transpose", "Conv", "Transpose"]
    operators += [*([between] * bool(between)), *product, "Reshape"]
    feeds = {"z": np.random.default_rng(0).normal(size=(2, 12, 8)).astype(np.float32)}
    run_pass("simplify", model)
    assert_becomes(Layout(), model, operators, target=_CPU, feeds=feeds)


def test_the_size_of_a_map_may_be_unknown_behind_it() -> None:
    w = np.linspace(-1, 1, 16 * 9, dtype=np.float32).reshape(16, 1, 3, 3)
    text = f"{_CONV} {_TO_ROWS}"
    model = parse(
        f"g (float[N,16,H,W] m) => (float[N,S,16] y) <int64[3] rows = {{0,16,-1}}> {{ {text} }}",
        w=w,
    )
    assert_becomes(Layout(), model, ["Conv", "Transpose", "Reshape"], target=_CPU)


def test_the_runtime_then_transposes_nothing() -> None:
    def transposes(model: ir.Model) -> int:
        return census(model, Target.parse("cpu")).executed.ops.get("Transpose", 0)

    model = _model(_BLOCK)
    assert transposes(model) == 2
    run_pass(Layout(), model)
    assert transposes(model) == 0


def test_a_second_time_changes_nothing() -> None:
    model = _model(_BLOCK)
    run_pass(Layout(), model, target=_CPU)
    first = ir.to_proto(model).SerializeToString()
    run_pass(Layout(), model, target=_CPU)
    assert ir.to_proto(model).SerializeToString() == first


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_model(f"{_TO_MAP} y = Relu(m)", y="N,16,3,4"), "others than convolutions read"),
        (_model(f"{_TO_MAP} c = {_CONV[4:]} y = Add(c, m)", y="N,16,3,4"), "others than conv"),
        (
            _model(f"{_TO_MAP} {_CONV} y = Relu(c)", y="N,16,3,H", to="0,16,3,-1", x="N,S,16"),
            "size",
        ),
        (_model(f"{_TO_MAP} {_CONV} y = Relu(c)", x="1,24,8", y="1,16,3,4"), "pixels are not"),
        (_model("t = Transpose<perm=[0,2,1]>(x) y = Reshape(t, rows)", y="N,16,12"), "a map"),
    ],
    ids=["no convolution", "another reader", "unknown sizes", "other channels", "no map"],
)
def test_refuses_to_make_a_map(model: ir.Model, reason: str) -> None:
    assert_refuses(tokens_to_map, model, reason, target=_CPU)


@pytest.mark.parametrize("rule", [tokens_to_map, map_to_tokens])
def test_leaves_a_transpose_that_reverses_all_axes(rule: Rule) -> None:
    model = _model(
        "t = Transpose(x) m = Reshape(t, map) c = Conv<group=16>(m, w)"
        " r = Reshape(c, rows) y = Transpose(r)",
        x="12,16,N",
        y="S,16,N",
    )
    assert rewrites(run_pass(rule, model, target=_CPU)) == {}


def test_refuses_to_make_tokens_of_what_no_convolution_made() -> None:
    model = _model(f"{_TO_MAP} c = Sqrt(m) {_TO_ROWS}")
    assert_refuses(map_to_tokens, model, "not made by a convolution", target=_CPU)


def test_refuses_a_product_that_may_be_merged_with_another() -> None:
    u = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(16, 16)
    body = (
        "p = MatMul(z, u) h = Add(p, b) m = Reshape(h, map) t = Transpose<perm=[0,3,1,2]>(m)"
        " c = Conv<group=16, pads=[1,1,1,1]>(t, w) y = MatMul(z, v)"
    )
    weights = {
        "w": np.linspace(-1, 1, 16 * 9, dtype=np.float32).reshape(16, 1, 3, 3),
        **{"u": u, "v": u, "b": u[0]},
    }
    model = parse(
        "g (float[N,12,16] z) => (float[N,16,3,4] c, float[N,12,16] y)"
        f" <int64[4] map = {{0,3,4,16}}> {{ {body} }}",
        **weights,
    )
    assert_refuses(product_to_map, model, "other products of the same tokens", target=_CPU)


def test_refuses_without_the_layout() -> None:
    cuda = dataclasses.replace(_CPU, provider="CUDAExecutionProvider")
    assert_refuses(tokens_to_map, _model(_BLOCK), "no blocked layout", target=cuda)
    assert_refuses(map_to_tokens, _model(_BLOCK), "no blocked layout", target=cuda)
