# SPDX-License-Identifier: Apache-2.0
"""Masks read as conditions on positions, held against what the runtime computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.passes.fuse.attention.positions import condition_of, unmasked
from burnish.passes.fuse.forms.form import (
    KEY,
    QUERY,
    Condition,
    Form,
    is_causal,
    sees_some,
)
from burnish.passes.shapes import infer_shapes
from burnish.testing import parse

PAST, QUERIES = 3, 4
LOWEST = -1e30

# Inputs that give sizes alone: `past` tokens, then `new` ones.
HEADER = (
    '<ir_version: 10, opset_import: ["" : 23]> g (float[past] p, float[new] n) => (%s y)'
    " <int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] second = {1},"
    " int64[1] third = {2}, int64[1] all = {9223372036854775807}, int64[2] square = {16, 16},"
    " float none = {0.0}, float low = {-3.4028234663852886e38}, bool yes = {1},"
    " float each = {1.0}> { %s }"
)
SIZES = (
    "sp = Shape(p) sn = Shape(n) P = Squeeze(sp) S = Squeeze(sn) T = Add(P, S)"
    " st = Unsqueeze(T, first) st_ = Concat<axis=0>(sn, st)"
)
ROWS = "i0 = Range(zero, S, one) i1 = Add(i0, P) i = Unsqueeze(i1, second)"
COLUMNS = "j = Range(zero, T, one)"


def model(body: str, kind: str = "bool[new,T]") -> ir.Model:
    made = parse(HEADER % (kind, f"{SIZES} {body}"))
    made.graph.outputs[0].shape = None  # to be inferred, not declared
    infer_shapes(made)
    return made


def computed(made: ir.Model) -> np.ndarray:
    feeds = {"p": np.zeros(PAST, np.float32), "n": np.zeros(QUERIES, np.float32)}
    with onnxruntime.session(made) as session:
        return session.run(feeds)["y"]


def holds(condition: Condition, shape: tuple[int, ...]) -> np.ndarray:
    """Evaluate a condition at each index."""
    result = np.zeros(shape, bool)
    for index in itertools.product(*map(range, shape)):
        known: dict[Any, int] = {"past": PAST, "new": QUERIES}
        known |= {-axis - 1: index[-axis - 1] for axis in range(len(shape))}
        values = (sum(known[name] * n for name, n in f.terms) + f.constant for f in condition)
        result[index] = bool(all(value <= 0 for value in values))
    return result


CAUSAL = (
    f"{ROWS} {COLUMNS} y = LessOrEqual(j, i)",
    f"{ROWS} {COLUMNS} y = GreaterOrEqual(i, j)",
    f"{ROWS} {COLUMNS} b = Greater(j, i) y = Not(b)",
    f"{ROWS} {COLUMNS} k = Add(i, one) y = Less(j, k)",
    f"{ROWS} {COLUMNS} d = Sub(j, i) y = LessOrEqual(d, zero)",
    f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) y = And(b, yes)",
    "o = Expand(each, st_) t = Trilu<upper=0>(o, P) y = Cast<to=9>(t)",
    "o = Expand(each, st_) t = Trilu<upper=0>(o, P) b = Equal(t, none) y = Not(b)",
    "o = Expand(yes, st_) y = Trilu<upper=0>(o, P)",
    "k = Add(P, one) o = Expand(yes, st_) t = Trilu<upper=1>(o, k) y = Not(t)",
    # What came before by CumSum of ones.
    "o = Expand(one, st) c = CumSum(o, zero) j = Sub(c, one) o2 = Expand(one, sn)"
    " c2 = CumSum(o2, zero) i0 = Sub(c2, one) i1 = Add(i0, P) i = Unsqueeze(i1, second)"
    " y = LessOrEqual(j, i)",
    # A part of the square of all positions.
    "o = Expand(yes, square) t = Trilu<upper=0>(o) a = Slice(t, sp, st, first)"
    " y = Slice(a, first, st, second)",
    f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) w = Where(b, one, zero) y = Cast<to=9>(w)",
)


@pytest.mark.parametrize("body", CAUSAL)
def test_every_spelling_of_a_causal_mask_is_read_alike(body: str) -> None:
    made = model(body)
    condition = condition_of(made.graph.outputs[0])
    wanted = {KEY.plus(QUERY, -1).plus(Form.of({"past": 1}), -1)}
    assert condition is not None
    assert set(condition) == wanted
    assert np.array_equal(holds(condition, (QUERIES, PAST + QUERIES)), computed(made))
    assert is_causal(condition, ir.SymbolicDim("past"))
    assert not is_causal(condition)
    assert sees_some(condition, ir.SymbolicDim("new"), ir.SymbolicDim("new + past"))


@pytest.mark.parametrize(
    "body",
    [
        f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) d = Add(j, third) c = Greater(d, i) y = And(b, c)",
        f"{ROWS} {COLUMNS} y = Less(j, i)",
        f"{ROWS} {COLUMNS} d = Mul(j, third) y = LessOrEqual(d, i)",
    ],
    ids=["window", "before", "twice"],
)
def test_other_conditions_on_positions_are_read(body: str) -> None:
    made = model(body)
    condition = condition_of(made.graph.outputs[0])
    assert condition is not None
    assert np.array_equal(holds(condition, (QUERIES, PAST + QUERIES)), computed(made))
    assert not is_causal(condition, ir.SymbolicDim("past"))


@pytest.mark.parametrize(
    "body",
    [
        f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) x = Greater(n, none) z = Unsqueeze(x, second)"
        " y = And(b, z)",
        f"{ROWS} {COLUMNS} d = Mul(j, i) y = LessOrEqual(d, i)",
        f"{ROWS} {COLUMNS} y = Equal(j, i)",
        # Not of two conditions is none that all have to hold.
        f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) c = Less(zero, j) d = And(b, c) y = Not(d)",
    ],
    ids=["data", "product", "equal", "not both"],
)
def test_what_is_no_condition_on_positions_is_not_read(body: str) -> None:
    assert condition_of(model(body).graph.outputs[0]) is None


ADDED = (
    f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) y = Where(b, none, low)",
    f"{ROWS} {COLUMNS} b = Greater(j, i) y = Where(b, low, none)",
    "k = Add(P, one) o = Expand(low, st_) y = Trilu<upper=1>(o, k)",
    f"{ROWS} {COLUMNS} b = Greater(j, i) f = Cast<to=1>(b) o = Expand(low, st_) y = Mul(o, f)",
    f"{ROWS} {COLUMNS} b = Greater(j, i) a = Where(b, low, none) y = Mul(a, each)",
    f"{ROWS} {COLUMNS} b = Greater(j, i) a = Where(b, low, none) y = Add(a, none)",
)


@pytest.mark.parametrize("body", ADDED)
def test_masks_that_are_added(body: str) -> None:
    made = model(body, "float[new,T]")
    condition = unmasked(made.graph.outputs[0], LOWEST)
    assert condition is not None
    assert is_causal(condition, ir.SymbolicDim("past"))
    assert np.array_equal(holds(condition, (QUERIES, PAST + QUERIES)), computed(made) == 0)


@pytest.mark.parametrize(
    "body",
    [
        f"{ROWS} {COLUMNS} b = LessOrEqual(j, i) y = Where(b, each, low)",
        f"{ROWS} {COLUMNS} b = Greater(j, i) f = Cast<to=1>(b) y = Mul(f, each)",
    ],
    ids=["not 0", "not low"],
)
def test_biases_are_no_masks(body: str) -> None:
    assert unmasked(model(body, "float[new,T]").graph.outputs[0], LOWEST) is None


@pytest.mark.parametrize("offset", [-1, 0, 2, 5])
def test_constant_triangles(offset: int) -> None:
    triangle = np.tri(4, 6, offset, dtype=bool)
    for array in (triangle, ~triangle, triangle[None, None].astype(np.float32)):
        value = ir.Value(name="c", const_value=ir.tensor(array))
        graph = ir.Graph([], [], nodes=[], initializers=[value])
        assert graph.initializers["c"] is value
        condition = condition_of(value)
        assert condition is not None
        assert np.array_equal(holds(condition, (4, 6)), array.reshape(4, 6) != 0)


def test_a_broadcast_axis_has_no_index() -> None:
    """Were `new` 1, a row of positions would be the same row for all."""
    body = "i0 = Range(zero, S, one) o = Expand(zero, st) y = LessOrEqual(o, i0)"
    assert condition_of(model(body, "bool[T]").graph.outputs[0]) is None
