# SPDX-License-Identifier: Apache-2.0
"""Loops of few rounds are unrolled; outputs are compared with the runtime's optimizations off."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import session
from burnish.passes.cleanup.unroll import UnrollLoops
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass

_SUM = (
    "body = step (int64 i, bool c, float[2] a) => (bool d, float[2] b, float[2] s) {{"
    "f = Cast<to=1>(i) t = Add(a, f) b = Mul(t, x) s = Neg(b) {condition} }}"
)


def _loop(
    rounds: str = "int64 m = {3}",
    condition: str = "d = Identity(c)",
    going: str = "go",
    opset: int = 21,
) -> ir.Model:
    body = _SUM.format(condition=condition)
    return parse(
        f'<ir_version: 10, opset_import: ["" : {opset}]>'
        "g (float[2] x, bool q, int64 n) => (float[2] y, float[K,2] z)"
        f"<{rounds}, bool go = {{1}}, bool stop = {{0}}>"
        f"{{ y, z = Loop(m, {going}, x) <{body}> }}"
    )


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("rounds", [1, 3, 8])
@pytest.mark.parametrize("going", ["go", ""])
@pytest.mark.parametrize("condition", ["d = Identity(c)", "d = Constant<value = bool {1}>()"])
def test_rounds_stand_one_behind_another(rounds: int, going: str, condition: str) -> None:
    model = _loop(f"int64 m = {{{rounds}}}", condition, going)
    original = model.clone()
    run_pass(UnrollLoops(), model)
    assert "Loop" not in _ops(model)
    assert _ops(model).count("Mul") == rounds
    assert_same_outputs(original, model)


def test_old_operator_sets_and_constants_of_the_body() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 11]>'
        "g (float[2] x) => (float[2] y, float[K,2] z) <int64 m = {2}, bool go = {1}> {"
        "y, z = Loop(m, go, x) <body = step (int64 i, bool c, float[2] a) =>"
        " (bool d, float[2] b, float[2] s) <float k = {0.5}>"
        "{ b = Mul(a, k) s = Neg(b) d = Identity(c) }> }"
    )
    original = model.clone()
    run_pass(UnrollLoops(), model)
    assert "Loop" not in _ops(model)
    assert_same_outputs(original, model)


def test_no_round_is_nothing() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <int64 m = {5}, bool stop = {0}> { y = Loop(m, stop, x) <"
        "body = step (int64 i, bool c, float[2] a) => (bool d, float[2] b)"
        "{ b = Exp(a) d = Identity(c) }> }"
    )
    original = model.clone()
    run_pass(UnrollLoops(), model)
    assert _ops(model) == ["Identity"]
    assert_same_outputs(original, model)


def test_loops_in_loops_and_branches_get_names_of_their_own() -> None:
    inner = (
        "body = inner (int64 j, bool e, float[2] u) => (bool h, float[2] v)"
        "{ w = If(q) <then_branch = p () => (float[2] r) { r = Exp(u) },"
        " else_branch = o () => (float[2] r) { r = Sin(u) }> v = Add(w, a) h = Identity(e) }"
    )
    model = parse(
        "g (float[2] x, bool q) => (float[2] y) <int64 m = {2}, bool go = {1}> {"
        "y = Loop(m, go, x) <body = step (int64 i, bool c, float[2] a) => (bool d, float[2] b)"
        f"{{ b = Loop(m, go, a) <{inner}> d = Identity(c) }}> }}"
    )
    original = model.clone()
    run_pass(UnrollLoops(), model)
    assert _ops(model).count("If") == 4
    assert "Loop" not in _ops(model)
    assert_same_outputs(original, model)


def test_a_scan_takes_slices() -> None:
    model = parse(
        "g (float[2] x, float[4,2] data) => (float[2] y, float[4,2] z) {"
        "y, z = Scan<num_scan_inputs=1, body = step (float[2] a, float[2] row) =>"
        " (float[2] b, float[2] s) { b = Add(a, row) s = Mul(b, row) }>(x, data) }"
    )
    original = model.clone()
    run_pass(UnrollLoops(), model)
    assert "Scan" not in _ops(model)
    assert _ops(model).count("Mul") == 4
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rounds": "int64 m = {9}"}, "more rounds or nodes than"),
        ({"going": "q"}, "the condition is not constant"),
        ({"condition": "d = Not(c)"}, "the condition may end it early"),
        ({"going": "stop"}, "it collects nothing in no round"),
        ({"condition": "d = Identity(c) r = RandomNormal<shape=[1]>()"}, "it draws random"),
    ],
)
def test_others_stay(arguments: dict[str, str], reason: str) -> None:
    assert_refuses(UnrollLoops(), _loop(**arguments), reason)  # type: ignore[arg-type]


def test_an_unknown_number_of_rounds_stays() -> None:
    model = parse(
        "g (float[2] x, int64 n) => (float[2] y) <bool go = {1}> { y = Loop(n, go, x) <"
        "body = step (int64 i, bool c, float[2] a) => (bool d, float[2] b)"
        "{ b = Exp(a) d = Identity(c) }> }"
    )
    assert_refuses(UnrollLoops(), model, "the number of rounds is not constant")


def test_options_bound_rounds_and_nodes() -> None:
    reason = "it has more rounds or nodes than `rounds` and `nodes` allow"
    assert_refuses(UnrollLoops(rounds=2), _loop(), reason)
    assert_refuses(UnrollLoops(nodes=10), _loop(), reason)


def test_the_condition_may_be_collected_and_carried_on() -> None:
    """Of what no node makes the runtime collects wrong numbers: there is nothing to compare."""
    model = parse(
        """g (float[2] x) => (float[2] y, bool z) <int64 m = {2}, bool go = {1}> {
        y, c, s = Loop(m, go, x, go) <body = step (int64 i, bool a, float[2] b, bool d) =>
        (bool a, float[2] e, bool a, bool a) { e = Neg(b) }>
        all = Cast<to = 6>(s) least = ReduceMin<keepdims = 0>(all) t = Cast<to = 9>(least)
        z = And(t, c) }"""
    )
    run_pass(UnrollLoops(), model)
    assert "Loop" not in _ops(model)
    with session(model) as running:
        outputs = running.run({"x": np.array([1, -2], np.float32)})
    np.testing.assert_array_equal(outputs["y"], [1, -2])
    assert outputs["z"]
