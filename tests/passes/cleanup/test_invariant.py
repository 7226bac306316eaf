# SPDX-License-Identifier: Apache-2.0
"""What no round of a Loop or Scan changes is taken from outside of its body."""

from __future__ import annotations

import pytest

from burnish.testing import assert_rewrites, assert_same_outputs, parse, rewrites, run_pass


@pytest.mark.parametrize(
    ("out", "copy"),
    [
        ("w", ""),
        ("v", "v = Identity(w)"),
        ("v", "u = Identity(w)  v = Identity(u)"),
    ],
)
def test_a_weight_that_a_loop_hands_on_becomes_the_constant_it_is(out: str, copy: str) -> None:
    before = parse(
        f"""g (float[1,2] x, int64 n) => (float[1,2] y) <float[2,2] weight = {{1, 2, 3, 4}}> {{
            y, last = Loop(n, , x, weight) <body = b (int64 i, bool c, float[1,2] s, float[2,2] w)
                => (bool c, float[1,2] t, float[2,2] {out}) {{ t = MatMul(s, w)  {copy} }}>
        }}"""
    )
    after = parse(
        """g (float[1,2] x, int64 n) => (float[1,2] y) <float[2,2] weight = {1, 2, 3, 4}> {
            y = Loop(n, , x) <body = b (int64 i, bool c, float[1,2] s)
                => (bool c, float[1,2] t) { t = MatMul(s, weight) }>
        }"""
    )
    assert_rewrites("loop-invariants", before, after)


def test_what_a_scan_hands_on_and_collects() -> None:
    before = parse(
        """g (float[3,2] x, float[2] k) => (float[2] s1, float[3,2] y) {
            s1, k1, y = Scan(k, k, x) <num_scan_inputs = 1, body = b (float[2] s, float[2] w,
                float[2] v) => (float[2] t, float[2] z, float[2] u)
                { t = Add(s, v)  u = Mul(v, w)  z = Identity(w) }>
        }"""
    )
    after = parse(
        """g (float[3,2] x, float[2] k) => (float[2] s1, float[3,2] y) {
            s1, y = Scan(k, x) <num_scan_inputs = 1, body = b (float[2] s, float[2] v)
                => (float[2] t, float[2] u) { t = Add(s, v)  u = Mul(v, k) }>
        }"""
    )
    assert_rewrites("loop-invariants", before, after)


def test_an_output_of_the_model_keeps_its_name_and_value() -> None:
    model = parse(
        """g (float[2] x, int64 n) => (float[2] y, float[2] z) {
            h = Neg(x)
            y, z = Loop(n, , x, h) <body = b (int64 i, bool c, float[2] s, float[2] w)
                => (bool c, float[2] t, float[2] w) { t = Add(s, w) }>
        }"""
    )
    original = model.clone()
    run_pass("loop-invariants", model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert_same_outputs(original, model)


def test_loops_in_loops_are_seen_through_from_outside() -> None:
    model = parse(
        """g (float[2] x, int64 n) => (float[2] y) <float[2] k = {1, 2}> {
            y, last = Loop(n, , x, k) <body = b (int64 i, bool c, float[2] s, float[2] w)
                => (bool c, float[2] t, float[2] w) {
                t, w1 = Loop(n, , s, w) <body = d (int64 j, bool e, float[2] p, float[2] q)
                    => (bool e, float[2] r, float[2] q) { r = Add(p, q) }>
            }>
        }"""
    )
    original = model.clone()
    assert rewrites(run_pass("loop-invariants", model)) == {"loop-invariant": 2}
    adds = [node for node in model.graph.all_nodes() if node.op_type == "Add"]
    assert [value.name for value in adds[0].inputs if value is not None] == ["p", "k"]
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    "handed_on",
    [
        "float[2] w, float[2] s",  # in turns
        "float[2] t, float[2] t",
        "float[2] w, float[2] w",  # from the second round on only
    ],
)
def test_what_changes_stays(handed_on: str) -> None:
    model = parse(
        f"""g (float[2] x, float[2] k, int64 n) => (float[2] y, float[2] z) {{
            y, z = Loop(n, , x, k) <body = b (int64 i, bool c, float[2] s, float[2] w)
                => (bool c, {handed_on}) {{ t = Add(s, w) }}>
        }}"""
    )
    original = model.clone()
    assert not rewrites(run_pass("loop-invariants", model))
    assert_same_outputs(original, model)


def test_an_invariant_that_each_round_collects_stays() -> None:
    model = parse(
        """g (float[2] k, int64 n) => (float[m,2] y) {
            last, y = Loop(n, , k) <body = b (int64 i, bool c, float[2] w)
                => (bool c, float[2] w, float[2] w) { }>
        }"""
    )
    original = model.clone()
    assert not rewrites(run_pass("loop-invariants", model))
    assert_same_outputs(original, model)


def test_a_loop_that_changes_nothing_goes() -> None:
    before = parse(
        """g (float[2] x, int64 n, bool c) => (float[2] y) {
            h = Neg(x)
            y = Loop(n, c, h) <body = b (int64 i, bool d, float[2] s)
                => (bool e, float[2] t) { e = Identity(d)  u = Add(s, x)  t = Identity(s) }>
        }"""
    )
    after = parse("g (float[2] x, int64 n, bool c) => (float[2] y) { y = Neg(x) }")
    assert_rewrites("loop-invariants", before, after)
