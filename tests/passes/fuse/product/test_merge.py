# SPDX-License-Identifier: Apache-2.0
"""Products of the same input are merged where the target is known to gain by it, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from burnish import api
from burnish.backends.answers import Answer
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes import decide
from burnish.passes.decide import Decision
from burnish.passes.fuse.product.merge import MergeProducts
from burnish.testing import assert_refuses, assert_same_outputs, parse, rewrites, run_pass

_WELCOME = tuple(Preference(f"merged.{name}", True) for name in ("MatMul", "Gemm", "Conv"))
CPU = Target.parse("cpu")
GAINS = replace(CPU, preferences=_WELCOME)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answers of earlier builds."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))


def _weights(name: str, *shape: int) -> str:
    size = 1
    for dim in shape:
        size *= dim
    numbers = ", ".join(str((7 * i + len(name)) % 11 / 4 - 1) for i in range(size))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


_CASES = {
    "MatMul": (
        "g (float[B,S,4] x) => (float[] u, float[] v, float[] w)"
        f"<{_weights('a', 4, 3)}, {_weights('bb', 4, 5)}, {_weights('ccc', 4, 2)}>"
        "{ u = MatMul(x, a) v = MatMul(x, bb) z = MatMul(x, ccc) w = Relu(z) }",
        ["MatMul", "Split", "Relu"],
    ),
    "Gemm": (
        "g (float[N,4] x) => (float[] u, float[] v)"
        f"<{_weights('a', 3, 4)}, {_weights('bb', 5, 4)}, {_weights('c', 3)}, {_weights('dd', 5)}>"
        "{ u = Gemm<transB=1>(x, a, c) v = Gemm<transB=1>(x, bb, dd) }",
        ["Gemm", "Split"],
    ),
    "Conv": (
        "g (float[1,2,5,5] x) => (float[] u, float[] v)"
        f"<{_weights('a', 3, 2, 1, 1)}, {_weights('bb', 4, 2, 1, 1)}>"
        "{ u = Conv(x, a) y = Conv(x, bb) v = Relu(y) }",
        ["Conv", "Split", "Relu"],
    ),
}


@pytest.mark.parametrize("name", _CASES)
@pytest.mark.parametrize("opset", [11, 21])
def test_they_are_merged_and_split(name: str, opset: int) -> None:
    text, after = _CASES[name]
    model = parse(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    original = model.clone()
    run_pass(MergeProducts(), model, target=GAINS)
    assert [node.op_type for node in model.graph] == after
    assert_same_outputs(original, model)


@pytest.mark.parametrize("name", _CASES)
def test_a_target_that_loses_or_is_unknown_keeps_them_apart(name: str) -> None:
    text, _ = _CASES[name]
    assert_refuses(MergeProducts(), parse(text), "target cpu runs it no faster fused", target=CPU)
    unknown = replace(CPU, preferences=())
    assert_refuses(MergeProducts(), parse(text), "not measured on target cpu", target=unknown)


@pytest.mark.parametrize(
    "body",
    [
        "u = MatMul(x, a) v = MatMul(z, bb)",
        "u = MatMul(x, a) v = MatMul(x, z)",
        "u = Gemm(x, a) v = Gemm<alpha=2.0>(x, bb)",
        "u = Gemm(x, a, row) v = Gemm(x, bb)",
        "u = Gemm(x, a) v = Gemm<transB=1>(x, square)",
    ],
)
def test_what_is_not_alike_is_not_merged(body: str) -> None:
    model: ir.Model = parse(
        "g (float[4,4] x, float[4,4] z) => (float[] u, float[] v)"
        f"<{_weights('a', 4, 3)}, {_weights('bb', 4, 5)}, {_weights('row', 3)},"
        f"{_weights('square', 4, 4)}> {{ {body} }}"
    )
    assert not rewrites(run_pass(MergeProducts(), model, target=GAINS))


def _optimized(model: ir.Model, target: Target) -> tuple[ir.Model, list[Decision]]:
    made, report = api.optimize(model, [MergeProducts()], target=target, measure=True)
    return made, report.decisions


@pytest.mark.parametrize("name", _CASES)
def test_it_is_measured_under_the_name_in_the_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, after = _CASES[name]
    monkeypatch.setattr(decide, "_timed", lambda *_: Answer(1.2, 1.1, 1.3))
    model, (decision,) = _optimized(parse(text), GAINS)
    assert (decision.operator, decision.source) == (f"merged.{name}", "measured")
    assert [node.op_type for node in model.graph] == after


def test_what_is_measured_slower_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "_timed", lambda *_: Answer(0.8, 0.7, 0.9))
    model, (decision,) = _optimized(parse(_CASES["MatMul"][0]), GAINS)
    assert decision.chosen == "original"
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "MatMul", "Relu"]


def test_both_sides_run_and_are_timed() -> None:
    columns = [f"{_weights(name, 64, 64)}" for name in ("a", "bb", "ccc")]
    text = (
        "g (float[N,64] x) => (float[] u, float[] v, float[] w)"
        f"<{', '.join(columns)}>"
        "{ u = MatMul(x, a) v = MatMul(x, bb) w = MatMul(x, ccc) }"
    )
    _, (decision,) = _optimized(parse(text), GAINS)
    assert decision.source == "measured"
    assert decision.ratio is not None
