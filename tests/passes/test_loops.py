# SPDX-License-Identifier: Apache-2.0
"""Shapes in and behind a Loop are those of every round, and of none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.edit import use_count
from burnish.passes.shapes import infer_shapes
from burnish.testing import assert_same_outputs, parse, run_pass

_ROWS = np.array([[1, 2]], np.float32)
_STEP = "body = step (int64 i, bool c, float[] a, {kind} b) => (bool d, float[] p, {kind} q{more})"
_CASES: dict[str, tuple[str, list[int]]] = {
    "rows are added in each round": (
        "y, shape = Loop(n, go, x, none) <"
        + _STEP.format(kind="int64[]", more="")
        + "{ d = Identity(c) p = Concat<axis=0>(a, a) q = Shape(p) }>",
        [1, 3],
    ),
    "the rank grows": (
        "y, shape = Loop(n, go, x, none) <"
        + _STEP.format(kind="int64[]", more="")
        + "{ d = Identity(c) t = Constant<value = int64[1] {0}>() p = Unsqueeze(a, t)"
        " q = Shape(p) }>",
        [1, 3],
    ),
    "two change places": (
        "w = Concat<axis=0>(x, x) y, v = Loop(n, go, x, w) <"
        + _STEP.format(kind="float[]", more="")
        + "{ d = Identity(c) p = Neg(b) q = Neg(a) }> shape = Shape(y)",
        [0, 1, 2],
    ),
    "no round at all": (
        "w = Neg(x) y, v = Loop(n, go, x, w) <"
        + _STEP.format(kind="float[]", more="")
        + "{ d = Identity(c) p = Concat<axis=1>(x, x) q = Neg(b) }> shape = Shape(y)",
        [0, 1],
    ),
    "the condition ends it before the last round": (
        "w = Neg(x) most = Add(three, three) v, u, y = Loop(most, go, x, w) <"
        + _STEP.format(kind="float[]", more=", float[] s")
        + "{ d = Less(i, n) p = Neg(a) q = Neg(b) s = Neg(a) }> shape = Shape(y)",
        [1, 5, 9],
    ),
    "a Loop in a Loop adds rows": (
        "y, shape = Loop(n, go, x, none) <"
        + _STEP.format(kind="int64[]", more="")
        + "{ d = Identity(c) p = Loop(n, c, a) <body = inner (int64 j, bool e, float[] f) =>"
        " (bool g, float[] h) { g = Identity(e) h = Concat<axis=0>(f, f) }> q = Shape(p) }>",
        [1, 2],
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_what_changes_from_round_to_round_is_not_folded(case: str) -> None:
    body, numbers = _CASES[case]
    model = parse(
        "g (float[1,2] x, int64 n) => (float[] y, int64[] shape) "
        f"<bool go = {{1}}, int64[2] none = {{0, 0}}, int64 three = {{3}}> {{ {body} }}"
    )
    original = model.clone()
    run_pass("cleanup", model)
    for number in numbers:
        feeds = {"x": _ROWS, "n": np.array(number)}
        assert_same_outputs(original, model, feeds=feeds)


def _dims(value: ir.Value) -> list[Any]:
    assert value.shape is not None
    return [dim if isinstance(dim, int) else str(dim) for dim in value.shape]


def test_what_every_round_keeps_is_known() -> None:
    model = parse(
        """g (float[N,4] x, int64 n) => (float[] y, float[] z, float[] s) <bool go = {1}> {
        y, z, s = Loop(n, go, x, x) <body = step (int64 i, bool c, float[] a, float[] b) =>
        (bool d, float[] p, float[] q, float[] t)
        { d = Identity(c) p = Relu(a) q = Concat<axis=0>(b, a) t = Neg(a) }> }"""
    )
    infer_shapes(model)
    (loop,) = model.graph
    body = loop.attributes["body"].as_graph()
    kept, grown = body.inputs[2:]
    assert _dims(kept) == ["N", 4]
    rows, columns = _dims(grown)
    assert rows != "N"
    assert columns == 4
    assert _dims(loop.outputs[0]) == ["N", 4]
    assert _dims(loop.outputs[1])[1] == 4
    assert _dims(loop.outputs[2])[1:] == ["N", 4]


def test_inference_leaves_no_users_behind() -> None:
    model = parse(
        """g (float[N,4] x, float[N,4] w, int64 n) => (float[] y) <bool go = {1}> {
        y = Loop(n, go, x) <body = step (int64 i, bool c, float[] a) => (bool d, float[] p)
        { d = Identity(c) p = Add(a, w) }> }"""
    )
    infer_shapes(model)
    assert [use_count(value) for value in model.graph.inputs] == [1, 1, 1]
