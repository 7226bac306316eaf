# SPDX-License-Identifier: Apache-2.0
"""Dead code: what goes, what stays, and that the work is linear."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import assert_rewrites, assert_same_outputs, parse, rewrites, run_pass


def test_nodes_initializers_and_chains_go() -> None:
    before = parse(
        "g (float[2] x, float[2] unused) => (float[2] y) "
        "<float[2] w = {1, 2}, float[2] v = {3, 4}> "
        "{ a = Add(x, w)  b = Exp(a)  c = Neg(b)  y = Abs(x) }"
    )
    after = parse("g (float[2] x, float[2] unused) => (float[2] y) { y = Abs(x) }")
    assert_rewrites("dead-code", before, after)
    assert not before.graph.initializers


def test_an_initializer_that_is_an_input_stays() -> None:
    before = parse("g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Abs(x) }")
    assert not rewrites(run_pass("dead-code", before))
    assert set(before.graph.initializers) == {"w"}


def test_an_initializer_that_is_an_output_stays() -> None:
    before = parse("g (float[2] x) => (y, w) <float[2] w = {1, 2}> { y = Abs(x) }")
    run_pass("dead-code", before)
    assert set(before.graph.initializers) == {"w"}


@pytest.mark.parametrize(
    ("nodes", "outputs", "count"),
    [
        ("y, m = Dropout(x)", ["y"], 1),
        ("y, m, v = LayerNormalization(x, w)", ["y"], 2),
        ("a, m, y = LayerNormalization(x, w)", ["a", "", "y"], 1),  # the first is not optional
    ],
)
def test_optional_outputs_go(nodes: str, outputs: list[str], count: int) -> None:
    before = parse(f"g (float[2,4] x, float[4] w) => (y) {{ {nodes} }}")
    original = before.clone()
    assert rewrites(run_pass("dead-code", before)) == {"unused-output": count}
    (node,) = before.graph
    assert [value.name for value in node.outputs] == outputs
    assert_same_outputs(original, before)


def test_the_number_of_outputs_of_batch_normalization_is_a_mode() -> None:
    before = parse(
        '<ir_version: 6, opset_import: ["" : 9]> '
        "g (float[1,2,3] x, float[2] s, float[2] b, float[2] m, float[2] v) => (y) "
        "{ y, m2, v2, sm, sv = BatchNormalization(x, s, b, m, v) }"
    )
    assert not rewrites(run_pass("dead-code", before))


def test_present_keys_stay_where_there_are_past_ones() -> None:
    """ONNX Runtime runs no Attention that is given past keys and gives no present ones."""
    before = parse(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1,2,3,4] q, float[1,2,5,4] k) => (y)'
        " { y, keys, values, w = Attention(q, q, q, , k, k) }"
    )
    original = before.clone()
    assert rewrites(run_pass("dead-code", before)) == {"unused-output": 1}
    (node,) = before.graph
    assert [value.name for value in node.outputs] == ["y", "keys", "values"]
    assert_same_outputs(original, before)


def test_required_outputs_stay() -> None:
    before = parse("g (float[4] x, int64[1] k) => (y) { y, i = TopK(x, k) }")
    assert not rewrites(run_pass("dead-code", before))


def test_inside_inner_graphs_and_what_only_they_used() -> None:
    before = parse(
        """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            v = Exp(w)
            u = If(c) <
                then_branch = t () => (float[2] a) { d = Sin(v)  a = Neg(x) },
                else_branch = e () => (float[2] f) { f = Abs(v) }
            >
            y = If(c) <
                then_branch = t2 () => (float[2] a2) { d2 = Sin(v)  a2 = Neg(x) },
                else_branch = e2 () => (float[2] f2) { f2 = Abs(x) }
            >
        }"""
    )
    original = before.clone()
    run_pass("dead-code", before)
    assert [node.op_type for node in before.graph.all_nodes()] == ["If", "Neg", "Abs"]
    assert not before.graph.initializers
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.ones(2, np.float32)}
        assert_same_outputs(original, before, feeds=feeds)


def test_functions_nobody_calls_go_and_dead_code_in_the_others() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21, "local" : 1]>
        f (x) => (y) { a = Exp(x)  y = local.h(x) }
        <domain: "local", opset_import: ["" : 21]> h (x) => (y) { y = Neg(x) }
        <domain: "local", opset_import: ["" : 21]> k (x) => (y) { y = Abs(x) }"""
    )
    original = before.clone()
    assert rewrites(run_pass("dead-code", before)) == {"dead-node": 1, "unused-function": 1}
    assert [key[1] for key in before.functions] == ["f", "h"]
    assert_same_outputs(original, before)


def test_a_node_without_outputs_stays() -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21, "log" : 1]> '
        "g (float[2] x) => (float[2] y) { y = Abs(x) }"
    )
    effect = ir.Node("log", "Print", [model.graph.inputs[0]], num_outputs=0)
    model.graph.append(effect)
    assert not rewrites(run_pass("dead-code", model))


def test_bisecting_stops_in_the_middle() -> None:
    text = "g (float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(x)  c = Sin(x)  y = Abs(x) }"
    model = parse(text)
    run_pass("dead-code", model, limit=2)
    assert [node.op_type for node in model.graph] == ["Exp", "Abs"]


@pytest.mark.slow
def test_time_is_linear_in_nodes() -> None:
    def seconds(count: int) -> float:
        nodes = "\n".join(f"a{i + 1} = Neg(a{i})" for i in range(count))
        model = parse(f"g (float[2] a0) => (float[2] y) {{ {nodes} y = Abs(a0) }}")
        started = time.perf_counter()
        run_pass("dead-code", model)
        assert model.graph.num_nodes() == 1
        return time.perf_counter() - started

    assert seconds(20_000) < 20 * 3 * max(seconds(1_000), 0.002)
