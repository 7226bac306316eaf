# SPDX-License-Identifier: Apache-2.0
"""An If with a constant condition becomes the branch taken, names and scopes in order."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import assert_rewrites, assert_same_outputs, parse, rewrites, run_pass

BRANCHES = """then_branch = t () => (float[2] a) { b = Neg(x)  a = Exp(b) },
              else_branch = e () => (float[2] d) { b = Abs(x)  d = Exp(b) }"""


@pytest.mark.parametrize(("condition", "first"), [("1", "Neg"), ("0", "Abs")])
@pytest.mark.parametrize("shape", ["", "[1]"])
def test_the_branch_taken_stands_in_its_place(condition: str, first: str, shape: str) -> None:
    before = parse(
        f"g (float[2] x) => (float[2] y) <bool{shape} c = {{{condition}}}> "
        f"{{ u = If(c) <{BRANCHES}>  y = Sin(u) }}"
    )
    after = parse(f"g (float[2] x) => (float[2] y) {{ b = {first}(x)  a = Exp(b)  y = Sin(a) }}")
    assert_rewrites("constant-if", before, after)


def test_an_output_of_the_model_keeps_its_name() -> None:
    before = parse(f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If(c) <{BRANCHES}> }}")
    after = parse("g (float[2] x) => (float[2] y) { b = Neg(x)  y = Exp(b) }")
    assert_rewrites("constant-if", before, after)
    assert before.graph.outputs[0].name == "y"


def test_a_condition_that_is_an_input_stays() -> None:
    before = parse(f"g (float[2] x, bool c = {{1}}) => (float[2] y) {{ y = If(c) <{BRANCHES}> }}")
    assert not rewrites(run_pass("constant-if", before))


def test_equal_names_in_several_branches_are_told_apart() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y) <bool c = {1}> "
        f"{{ u = If(c) <{BRANCHES}>  v = If(c) <{BRANCHES}>  y = Add(u, v) }}"
    )
    original = before.clone()
    run_pass("constant-if", before)  # verifies that names are unique
    assert [node.op_type for node in before.graph] == ["Neg", "Exp", "Neg", "Exp", "Add"]
    assert_same_outputs(original, before)


def test_a_branch_that_passes_on_a_value_from_outside() -> None:
    before = parse(
        """g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}> {
            y, u = If(c) <
                then_branch = t () => (float[2] a, float[2] b) { a = Identity(x)  b = Identity(a) },
                else_branch = e () => (float[2] d, float[2] f) { d = Neg(x)  f = Exp(x) }
            >
            z = Neg(u)
        }"""
    )
    original = before.clone()
    run_pass("constant-if,simplify", before)
    assert sorted(node.op_type for node in before.graph) == ["Identity", "Neg"]
    assert_same_outputs(original, before)


def test_initializers_of_the_branch_move_along() -> None:
    before = parse(
        """g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}, float[2] w = {1, 2}> {
            u, z = If(c) <
                then_branch = t () => (float[2] a, float[2] w2) <float[2] w2 = {3, 4}>
                    { a = Add(x, w2) },
                else_branch = e () => (float[2] d, float[2] f) { d = Neg(x)  f = Abs(x) }
            >
            y = Mul(u, w)
        }"""
    )
    original = before.clone()
    run_pass("constant-if", before)
    assert [node.op_type for node in before.graph] == ["Add", "Identity", "Mul"]
    assert_same_outputs(original, before)


def test_nested() -> None:
    before = parse(
        f"""g (bool k, float[2] x) => (float[2] y) <bool c = {{1}}, bool n = {{0}}> {{
            y = If(c) <
                then_branch = t0 () => (float[2] o) {{
                    p = If(n) <{BRANCHES}>
                    q = If(k) <{BRANCHES}>
                    o = Add(p, q)
                }},
                else_branch = e0 () => (float[2] r) {{ r = Identity(x) }}
            >
        }}"""
    )
    original = before.clone()
    assert rewrites(run_pass("constant-if", before)) == {"constant-if": 2}
    assert [node.op_type for node in before.graph] == ["Abs", "Exp", "If", "Add"]
    for flag in (True, False):
        feeds = {"k": np.array(flag), "x": np.ones(2, np.float32)}
        assert_same_outputs(original, before, feeds=feeds)


def test_in_a_loop() -> None:
    before = parse(
        f"""g (float[2] x) => (float[2] y) <int64 n = {{3}}, bool go = {{1}}, bool c = {{0}}> {{
            y = Loop(n, go, x) <body = b0 (int64 i, bool k, float[2] s) => (bool k2, float[2] s2) {{
                k2 = Identity(k)
                v = If(c) <{BRANCHES.replace("(x)", "(s)")}>
                s2 = Sin(v)
            }}>
        }}"""
    )
    original = before.clone()
    assert rewrites(run_pass("constant-if", before)) == {"constant-if": 1}
    assert_same_outputs(original, before)


def test_in_a_function() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]> f (x) => (y) {
            c = Constant<value = bool {1}>()
            y = If(c) <
                then_branch = t () => (float[2] a) <float[2] w = {3, 4}> { a = Add(x, w) },
                else_branch = e () => (float[2] d) { d = Neg(x) }
            >
        }"""
    )
    original = before.clone()
    run_pass("constant-if", before)
    (function,) = before.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Add"]
    assert not function.graph.initializers
    assert_same_outputs(original, before)


def test_the_whole_group_decides_a_computed_condition() -> None:
    before = parse(
        f"""g (float[2] x) => (float[2] y) <int64 i = {{0}}, int64 two = {{2}}> {{
            s = Shape(x)  n = Gather(s, i)  c = Equal(n, two)  y = If(c) <{BRANCHES}>
        }}"""
    )
    after = parse("g (float[2] x) => (float[2] y) { b = Neg(x)  y = Exp(b) }")
    assert_rewrites("cleanup", before, after)


def test_bisecting_leaves_the_if_whole() -> None:
    before = parse(f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If(c) <{BRANCHES}> }}")
    run_pass("constant-if", before, limit=0)
    assert isinstance(before, ir.Model)
    assert [node.op_type for node in before.graph] == ["If"]
