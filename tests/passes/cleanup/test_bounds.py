# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold anyway go; others stay."""

from __future__ import annotations

import pytest

from burnish.passes.cleanup.bounds import bound_again, decided_logic, larger_of_both
from burnish.testing import assert_becomes, assert_refuses, assert_same_outputs, parse, run_pass

_CONSTANTS = (
    "float zero = {0.0}, float one = {1.0}, float half = {0.5}, float[2,1] less = {-1.0, 0.0},"
    "int64 nothing = {0}, int64 step = {1}, bool yes = {1}, bool no = {0}, int64 minus = {-1},"
    "int64[1] zeros = {0}, int64[1] ends = {1}, int64[1] flat = {-1}"
)


@pytest.mark.parametrize(
    "body",
    [
        "a = Sigmoid(x) y = Relu(a)",
        "a = Softmax(x) b = Transpose(a) y = Clip(b, zero, one)",
        "a = Clip(x, half, one) y = Abs(a)",
        "a = Relu(x) b = Tanh(x) c = Concat<axis=0>(a, a) y = Clip(c, less0)",
        "a = Erf(x) s = Slice(a, zeros, ends) y = Clip(s, less0, one)",
    ],
)
def test_bounds_that_hold_go(body: str) -> None:
    model = parse(
        f"g (float[2,4] x) => (float[] y) <{_CONSTANTS}, float less0 = {{-1.0}}> {{ {body} }}"
    )
    original = model.clone()
    run_pass(bound_again, model)
    assert len(model.graph) == len(original.graph) - 1
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Tanh(x) y = Relu(a)", "it may be out of these bounds"),
        ("a = Sigmoid(x) y = Clip(a, half)", "it may be out of these bounds"),
        ("a = Reshape(x, flat) y = Clip(a, zero)", "it may be out of these bounds"),
        ("a = Sigmoid(x) y = Clip(a, z)", "the bounds are not constant"),
        ("a = Cos(x) b = Concat<axis=0>(a, x) y = Abs(b)", "it may be out of these bounds"),
        # An upper bound that is computed may be below the lower one, and wins.
        ("a = Clip(x, zero, z) y = Relu(a)", "it may be out of these bounds"),
        ("a = Sigmoid(x) b = Clip(a, , z) y = Relu(b)", "it may be out of these bounds"),
    ],
)
def test_bounds_that_may_not_hold_stay(body: str, reason: str) -> None:
    model = parse(f"g (float[2,4] x, float z) => (float[] y) <{_CONSTANTS}> {{ {body} }}")
    assert_refuses(bound_again, model, reason)


def test_a_size_is_never_negative() -> None:
    model = parse(
        f"g (float[A,B] x) => (int64[2] y) <{_CONSTANTS}> {{ s = Shape(x) y = Max(minus, s) }}"
    )
    assert_becomes(larger_of_both, model, ["Shape"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = Relu(x) y = Max(s, half)", "either may be the one"),
        ("s = Relu(x) y = Max(s, less)", "the constant may broadcast it"),
        ("s = Sigmoid(x) y = Min(s, half)", "either may be the one"),
    ],
)
def test_the_larger_of_both_is_asked_where_it_is_not_known(body: str, reason: str) -> None:
    model = parse(f"g (float[1,4] x) => (float[] y) <{_CONSTANTS}> {{ {body} }}")
    assert_refuses(larger_of_both, model, reason)


def test_the_smaller_of_both() -> None:
    model = parse(
        f"g (float[2,4] x) => (float[] y) <{_CONSTANTS}> {{ s = Sigmoid(x) y = Min(s, one) }}"
    )
    assert_becomes(larger_of_both, model, ["Sigmoid"])


@pytest.mark.parametrize("body", ["y = And(yes, x)", "y = Or(x, no)", "y = Xor(x, no)"])
def test_what_is_decided_is_left_out(body: str) -> None:
    model = parse(f"g (bool[2,4] x) => (bool[2,4] y) <{_CONSTANTS}> {{ {body} }}")
    assert_becomes(decided_logic, model, ["Identity"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = And(x, no)", "the other one decides"),
        ("y = Or(x, yes)", "the other one decides"),
        ("y = And(x, many)", "the constant may broadcast it"),
    ],
)
def test_the_rest_of_logic_stays(body: str, reason: str) -> None:
    model = parse(
        f"g (bool[1,4] x) => (bool[] y) <{_CONSTANTS}, bool[2,1] many = {{1, 1}}> {{ {body} }}"
    )
    assert_refuses(decided_logic, model, reason)
