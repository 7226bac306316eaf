# SPDX-License-Identifier: Apache-2.0
"""PRelu in operators that the runtime vectorises, or why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32. Infinities and what is no number are compared exactly.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.onnxruntime import session
from burnish.backends.preferences import PREFERENCES
from burnish.backends.target import Target
from burnish.passes.fuse.activation.expand_prelu import (
    ExpandPRelu,
    prelu_in_blocks,
    prelu_to_max,
    prelu_to_relu,
)
from burnish.passes.rule import Rule
from burnish.testing import assert_becomes, assert_refuses, parse, rewritten, run_pass

Freeze = Callable[..., ir.Model]

MIXED = np.linspace(-0.5, 1.5, 8, dtype=np.float32)
BELOW = np.linspace(0.05, 0.9, 8, dtype=np.float32)
EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -3e38, 3e38], np.float32)


def blocks(freeze: Freeze, body: str, slopes: Any, dims: str = "16,1,1") -> ir.Model:
    return freeze(
        f"g (float[N,16,6,6] x, float[16,16,3,3] w, float[16] b, float[{dims}] a)"
        f" => (float[N,16,6,6] y) {{ {body} }}",
        a=np.repeat(slopes, 2).reshape(16, 1, 1) if np.ndim(slopes) == 1 else np.asarray(slopes),
    )


def alone(freeze: Freeze, slopes: Any, dtype: str = "float") -> ir.Model:
    return freeze(
        f"g ({dtype}[N,8] x, {dtype}[8] a) => ({dtype}[N,8] y) {{ y = PRelu(x, a) }}",
        a=np.asarray(slopes),
    )


def assert_same_at_edges(model: ir.Model, rule: Rule) -> None:
    after = model.clone()
    run_pass(rule, after)
    assert "PRelu" not in {node.op_type for node in after.graph}
    feeds = {"x": np.repeat(EDGES, 8).reshape(8, 8)}
    with session(model) as old, session(after) as new:
        np.testing.assert_array_equal(old.run(feeds)["y"], new.run(feeds)["y"])


# --- prelu-in-blocks ---------------------------------------------------------------------------

CONV = "Conv<pads = [1, 1, 1, 1]>"
CHAIN = f"c = {CONV}(x, w, b) p = PRelu(c, a) y = {CONV}(p, w)"


@pytest.mark.parametrize(
    ("slopes", "made"),
    [
        (BELOW, {"Mul": 2, "Relu": 1, "Add": 1}),
        (MIXED, {"Mul": 2, "Relu": 2, "Add": 1}),
        (np.zeros(8), {"Mul": 2, "Relu": 2, "Add": 1}),
    ],
)
def test_between_convolutions_it_stays_in_their_layout(
    freeze: Freeze, slopes: np.ndarray, made: dict[str, int]
) -> None:
    before = blocks(freeze, CHAIN, slopes)
    after = rewritten(prelu_in_blocks, before)
    assert Counter(node.op_type for node in after.graph) == {"Conv": 2, **made}
    run = census(after, Target.parse("cpu")).executed.ops
    assert run["com.microsoft.nchwc::ReorderOutput"] == 1
    assert run["com.microsoft.nchwc::Conv"] == 4
    assert not {"Add", "Mul", "PRelu"}.intersection(run)


def test_a_sum_of_what_is_in_blocks_is_in_blocks(freeze: Freeze) -> None:
    body = f"c = {CONV}(x, w, b) p = PRelu(c, a) d = {CONV}(p, w) s = Add(d, p) y = PRelu(s, a)"
    for slopes in (BELOW, MIXED):
        after = rewritten(prelu_in_blocks, blocks(freeze, body, slopes))
        assert "PRelu" not in {node.op_type for node in after.graph}


@pytest.mark.parametrize(
    ("body", "slopes", "dims", "reason"),
    [
        ("y = PRelu(x, a)", BELOW, "16,1,1", "no convolution in blocks is before it"),
        (
            f"c = {CONV}(x, w, b) m = Mul(c, x) y = PRelu(m, a)",
            BELOW,
            "16,1,1",
            "no convolution in blocks is before it",
        ),
        (
            CHAIN,
            np.linspace(0, 1, 36).reshape(6, 6),
            "6,6",
            "the slopes differ along more than the channels",
        ),
        (CHAIN, np.inf, "16,1,1", "a slope is not finite"),
    ],
)
def test_blocks_are_refused(freeze: Freeze, body: str, slopes: Any, dims: str, reason: str) -> None:
    assert_refuses(prelu_in_blocks, blocks(freeze, body, slopes, dims), reason)


def test_a_small_map_is_refused() -> None:
    model = parse(
        "g (float[1,16,5,5] x) => (float[1,16,5,5] y) <float[16,16,1,1] w, float[16,1,1] a>"
        "{ c = Conv(x, w) y = PRelu(c, a) }",
        w=np.ones((16, 16, 1, 1), np.float32),
        a=np.repeat(BELOW, 2).reshape(16, 1, 1),
    )
    assert_refuses(prelu_in_blocks, model, "the map is small")


# --- prelu-to-max ------------------------------------------------------------------------------


def test_slopes_up_to_one_become_max(freeze: Freeze) -> None:
    for slopes in (BELOW, -BELOW, np.minimum(MIXED, 1)):
        assert_becomes(ExpandPRelu(), alone(freeze, slopes), ["Mul", "Max"])


@pytest.mark.parametrize("slope", [0.25, 1.0, -2.0])
def test_max_of_infinities(freeze: Freeze, slope: float) -> None:
    assert_same_at_edges(alone(freeze, slope), prelu_to_max)


@pytest.mark.parametrize(
    ("slopes", "dtype", "reason"),
    [
        (2.0, "float", "a slope is above 1"),
        (MIXED, "float", "a slope is above 1"),
        (0.0, "float", "a slope is 0, whose product with infinity is no number"),
        (np.nan, "float", "a slope is not finite"),
        (1, "int32", "integers have no vectorised form"),
    ],
)
def test_max_is_refused(freeze: Freeze, slopes: Any, dtype: str, reason: str) -> None:
    assert_refuses(prelu_to_max, alone(freeze, slopes, dtype), reason)


def test_a_target_that_has_it_keeps_it(freeze: Freeze) -> None:
    model = alone(freeze, BELOW)
    target = dataclasses.replace(Target.parse("cpu"), preferences=PREFERENCES["tensorrt"])
    run_pass(ExpandPRelu(), model, target=target)
    assert [node.op_type for node in model.graph] == ["PRelu"]


# --- prelu-to-relu -----------------------------------------------------------------------------


def test_mixed_slopes_become_a_difference_of_relus(freeze: Freeze) -> None:
    for slopes in (MIXED, np.zeros(8), 2 * np.ones(8)):
        expected = ["Relu", "Neg", "Relu", "Mul", "Sub"]
        assert_becomes(ExpandPRelu(), alone(freeze, slopes), expected)


@pytest.mark.parametrize("slope", [0.0, 2.0, -1.0, 0.5])
def test_relus_of_infinities(freeze: Freeze, slope: float) -> None:
    slopes = np.array([slope] * 7 + [3.0])
    assert_same_at_edges(alone(freeze, slopes), prelu_to_relu)


def test_relus_are_refused_where_max_is_enough(freeze: Freeze) -> None:
    assert_refuses(prelu_to_relu, alone(freeze, BELOW), "Max is enough")
