# SPDX-License-Identifier: Apache-2.0
"""Common subexpressions: what counts as the same, and in which scope."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    rewrites,
    run_pass,
)


def test_the_same_operator_on_the_same_values_is_merged() -> None:
    before = parse(
        "g (float[2] x, float[2] z) => (float[2] y) "
        "{ a = Add(x, z)  b = Add(z, x)  c = Exp(a)  d = Exp(b)  y = Mul(c, d) }"
    )
    after = parse(
        "g (float[2] x, float[2] z) => (float[2] y) { a = Add(x, z)  c = Exp(a)  y = Mul(c, c) }"
    )
    assert_rewrites("cse", before, after)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Sub(x, z)  b = Sub(z, x)",  # not commutative
        "a = LeakyRelu<alpha = 0.1>(x)  b = LeakyRelu<alpha = 0.2>(x)",
        "a = RandomNormalLike(x)  b = RandomNormalLike(x)",
        "a = RandomUniformLike<seed = 1.0>(x)  b = RandomUniformLike<seed = 1.0>(x)",
        "a = Bernoulli(p)  b = Bernoulli(p)",
        "a = Constant<value = float {0.0}>()  b = Constant<value = float {-0.0}>()",
        "a = Constant<value_float = 0.0>()  b = Constant<value_float = -0.0>()",
        "a = foreign.Op(x)  b = foreign.Op(x)",
        "a = Cast<to = 1>(x)  b = Cast<to = 11>(x)  c = Cast<to = 1>(b)",
    ],
)
def test_what_only_looks_the_same_stays(nodes: str) -> None:
    before = parse(
        '<ir_version: 10, opset_import: ["" : 21, "foreign" : 1]> '
        f"g (float[2] x, float[2] z, float[2] p) => (y) {{ {nodes}  y = Add(a, b) }}"
    )
    assert not rewrites(run_pass("cse", before))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Clip(x, z)", "Clip(x, z, )"),
        ("Constant<value = float[2] {1, 2}>()", "Constant<value = float[2] {1, 2}>()"),
        ("Reshape(x, s)", "Reshape(x, s)"),
    ],
)
def test_two_spellings_of_the_same_are_merged(first: str, second: str) -> None:
    before = parse(
        f"g (float[2] x, float z, int64[1] s) => (y) {{ a = {first}  b = {second}  y = Add(a, b) }}"
    )
    assert rewrites(run_pass("cse", before)) == {"cse": 1}


def test_outputs_of_the_model_keep_their_names() -> None:
    before = parse("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x)  z = Exp(x) }")
    after = parse("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x)  z = Identity(y) }")
    assert_rewrites("cse", before, after)
    assert [value.name for value in before.graph.outputs] == ["y", "z"]
    assert not rewrites(run_pass("cse", before))


def test_an_output_gives_its_name_to_what_is_computed_before_it() -> None:
    before = parse("g (float[2] x) => (float[2] y, u) { a = Exp(x)  u = Neg(a)  y = Exp(x) }")
    after = parse("g (float[2] x) => (float[2] y, u) { y = Exp(x)  u = Neg(y) }")
    assert_rewrites("cse", before, after)


def test_an_inner_graph_uses_what_was_computed_outside_before() -> None:
    before = parse(
        """g (bool c, float[2] x) => (float[2] y, z) {
            a = Exp(x)
            y = If(c) <
                then_branch = t () => (float[2] b) { d = Exp(x)  e = Sin(x)  b = Add(d, e) },
                else_branch = e () => (float[2] f) { g = Sin(x)  h = Cos(x)  f = Add(g, h) }
            >
            u = Cos(x)
            z = Add(a, u)
        }"""
    )
    original = before.clone()
    assert rewrites(run_pass("cse", before)) == {"cse": 1}
    branch = next(node for node in before.graph if node.op_type == "If")
    assert [n.op_type for n in branch.attributes["then_branch"].as_graph()] == ["Sin", "Add"]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.ones(2, np.float32)}
        assert_same_outputs(original, before, feeds=feeds)


def test_a_first_node_that_lacks_an_output_is_no_stand_in() -> None:
    before = parse(
        "g (float[1,1,4] x) => (y, z, i) { y, = MaxPool<kernel_shape = [2]>(x)"
        "  z, i = MaxPool<kernel_shape = [2]>(x) }".replace("y, =", "y =")
    )
    assert not rewrites(run_pass("cse", before))
    named = before.clone()
    first = named.graph.node(0)
    first.resize_outputs(2)
    first.outputs[1].name = ""
    assert_refuses("cse", named, "the first one lacks an output")


def test_nodes_with_inner_graphs_are_left_alone() -> None:
    branch = "then_branch = t{0} () => (float[2] a{0}) {{ a{0} = Neg(x) }}"
    other = "else_branch = e{0} () => (float[2] b{0}) {{ b{0} = Abs(x) }}"
    ifs = "  ".join(f"y{i} = If(c) <{branch.format(i)}, {other.format(i)}>" for i in (0, 1))
    before = parse(f"g (bool c, float[2] x) => (float[2] y0, float[2] y1) {{ {ifs} }}")
    assert not rewrites(run_pass("cse", before))


def test_in_functions_references_to_an_attribute_are_the_same() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f<s = 0.5>(x) }
        <domain: "local", opset_import: ["" : 21]> f <s> (x) => (y) {
            a = LeakyRelu<alpha: float = @s>(x)  b = LeakyRelu<alpha: float = @s>(x)
            y = Add(a, b)
        }"""
    )
    original = before.clone()
    assert rewrites(run_pass("cse", before)) == {"cse": 1}
    assert_same_outputs(original, before)
