# SPDX-License-Identifier: Apache-2.0
"""A rule that makes the whole model slower is named, and held back where speed is asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish import frontends
from burnish.backends.target import Target
from burnish.errors import BudgetError, InputError
from burnish.files import cache_folder
from burnish.passes.ablation import Ablation
from burnish.passes.build import Job
from burnish.passes.instrument import Disable
from burnish.passes.pipeline import Pipeline
from burnish.passes.rule import pass_of, rule
from burnish.testing import assert_same_outputs, parse

_MODEL = """g (float[64,256] x) => (float[64,256] y) {
    a = Relu(x)  b = Relu(a)  c = Sigmoid(b)  y = Tanh(c)
}"""


@rule
def slow_tanh(op: Any, x: Any) -> Any:
    """Tanh(Sigmoid(x)) -> Tanh(Sigmoid(x) @ I @ I), which is right, and slow."""
    return op.Tanh(op.Sigmoid(x))


@slow_tanh.rewrite
def _(op: Any, x: Any) -> Any:
    unit = op.constant(np.eye(256, dtype=np.float32))
    return op.Tanh(op.MatMul(op.MatMul(op.Sigmoid(x), unit), unit))


@rule
def relu_twice(op: Any, x: Any) -> Any:
    """Relu(Relu(x)) -> Relu(x)."""
    return op.Relu(op.Relu(x))


@relu_twice.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Relu(x)


@pytest.fixture(autouse=True)
def _measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BURNISH_MEASURE", raising=False)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))


Slowing = pass_of("slowing", slow_tanh, relu_twice)


def test_each_rule_is_built_without_and_timed() -> None:
    loaded = frontends.load(parse(_MODEL))
    job = Job(Pipeline((Slowing(),)), Target.parse("cpu"), None)
    ablation = Ablation.of(job, loaded)
    speed = ablation.speed()
    rules = {item.rule: item for item in ablation.contributions()}
    assert speed.chosen == "original"
    assert rules.keys() == {"slow-tanh", "relu-twice"}
    slow, good = rules["slow-tanh"], rules["relu-twice"]
    assert slow.costs
    assert (slow.rewrites, slow.nodes) == (1, 3)
    assert slow.speedup < 0.9
    assert not good.costs
    assert good.nodes == 6
    assert len(loaded.model.graph) == 4, "the model is left as it is"


def test_what_others_do_too_is_not_timed() -> None:
    again = pass_of("again", relu_twice)
    twin = dataclasses.replace(relu_twice, name="relu-twice-too")
    job = Job(Pipeline((again(), pass_of("too", twin)())), Target.parse("cpu"), None)
    (only,) = Ablation.of(job, frontends.load(parse(_MODEL))).contributions()
    assert (only.rule, only.decision, only.note) == ("relu-twice", None, "same model")


def test_the_rule_that_costs_is_held_back() -> None:
    model, report = burnish.optimize(parse(_MODEL), Slowing(), min_speedup=0.5)
    assert [node.op_type for node in model.graph] == ["Relu", "Sigmoid", "Tanh"]
    assert "slower than the original with all rules: built without slow-tanh" in report.warnings
    (done,) = report.passes
    assert done.rules["slow-tanh"].skipped == 1
    assert done.rules["relu-twice"].rewrites == 1
    assert_same_outputs(parse(_MODEL), model)


def test_what_is_held_back_is_replayed(tmp_path: Path) -> None:
    text = parse(_MODEL)
    first, report = burnish.optimize(text, Slowing(), min_speedup=0.5)
    (tmp_path / "r.json").write_text(json.dumps(report.as_dict()))
    assert {entry.source for entry in report.decisions} == {"measured"}
    shutil.rmtree(cache_folder())
    decisions = tmp_path / "r.json"
    second, again = burnish.optimize(text, Slowing(), min_speedup=0.5, decisions=decisions)
    assert {entry.source for entry in again.decisions} == {"replayed"}
    assert ir.to_proto(first) == ir.to_proto(second)


def test_a_speedup_out_of_reach_is_a_missed_budget(tmp_path: Path) -> None:
    only = pass_of("only", relu_twice)
    with pytest.raises(BudgetError, match="of the original's speed; at least 50 is asked for"):
        burnish.optimize(parse(_MODEL), only(), min_speedup=50, output=tmp_path / "o.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_lossy_passes_are_not_taken_apart() -> None:
    lossy = type("Lossy", (Slowing,), {"lossless": False})
    with pytest.raises(BudgetError, match="at least 1 is asked for"):
        burnish.optimize(parse(_MODEL), lossy(), min_speedup=1)


def test_without_measuring_no_speed_is_promised() -> None:
    with pytest.raises(InputError, match="speed cannot be checked: not measured: measuring is off"):
        burnish.optimize(parse(_MODEL), Slowing(), min_speedup=1, measure=False)


def test_what_is_disabled_stays_so() -> None:
    job = Job(Pipeline((Slowing(),)), Target.parse("cpu"), None)
    ablation = Ablation.of(job, frontends.load(parse(_MODEL)), [Disable(("slow-*",))])
    assert [item.rule for item in ablation.contributions()] == ["relu-twice"]


@pytest.mark.parametrize("least", [-1.0, float("nan")])
def test_a_speedup_that_nothing_would_miss_is_refused(least: float) -> None:
    with pytest.raises(InputError, match=r"min_speedup .* is no budget; give 0 or more"):
        burnish.optimize(parse(_MODEL), Slowing(), min_speedup=least)
