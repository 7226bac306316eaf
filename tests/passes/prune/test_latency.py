# SPDX-License-Identifier: Apache-2.0
"""Budgets of measured time: met, missed with exit code 4, and replayed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.api import optimize
from burnish.backends import measure, onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.errors import InputError
from burnish.testing import parse
from burnish.tools import cli

NETWORK = (
    "g (float[N,64,24,24] x, float[128,64,3,3] w1, float[128,128,3,3] w2, float[8,128,1,1] w3) =>"
    "(float[N,8,24,24] y) { a = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(a)"
    " b = Conv<pads=[1,1,1,1]>(r, w2)  s = Relu(b)  y = Conv(s, w3) }"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of this machine yet."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def network(weighted: Callable[..., ir.Model], tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    model = weighted(NETWORK)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy() / 30
        value.const_value = ir.tensor(array, name=value.name)
    ir.save(model, path)
    return path


def test_the_time_that_is_left_is_measured(network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    _, report = optimize(
        network, "prune-channels{latency=0.5}", output=out, verify="off", measure=True
    )
    with (
        onnxruntime.session(network, optimize="all") as before,
        onnxruntime.session(out, optimize="all") as after,
    ):
        feeds = random_feeds(before)
        sides = {"before": before, "after": after}
        timing = measure.compare(sides, feeds, repeats=60)["after"]
    assert 0.2 < 1 / timing.speedup < 0.65  # other work of the machine may disturb
    asked = [each for each in report.decisions if each.rule == "latency"]
    assert asked
    assert all(each.ratio is not None for each in asked)


def test_decisions_are_replayed(network: Path, tmp_path: Path) -> None:
    text = "prune-channels{latency=0.6}"
    first, report = optimize(network, text, verify="off", measure=True)
    kept = tmp_path / "report.json"
    kept.write_text(json.dumps(report.as_dict()))
    second, again = optimize(network, text, verify="off", decisions=kept)
    assert {each.source for each in again.decisions} == {"replayed"}
    shapes = [[v.shape for v in m.graph.initializers.values()] for m in (first, second)]
    assert shapes[0] == shapes[1]


def test_without_measuring_there_is_no_answer(network: Path) -> None:
    with pytest.raises(InputError, match="latency cannot be had: not measured"):
        optimize(network, "prune-channels{latency=0.6}", measure=False)


@pytest.mark.parametrize("budget", ["latency=0.001", "flops=0.001", "params=0.001"])
def test_a_budget_that_is_missed_writes_nothing(
    budget: str,
    network: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BURNISH_MEASURE", "1")
    out = tmp_path / "out.onnx"

    def run(options: str) -> tuple[int | str | None, str]:
        words = [network, "-o", out, "--verify", "off", "--passes", f"prune-channels{{{options}}}"]
        monkeypatch.setattr(sys, "argv", ["optimize", *map(str, words)])
        monkeypatch.setattr(cli, "leave", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as leave:
            cli.optimize_main()
        return leave.value.code, capfd.readouterr().err

    code, error = run(budget)
    assert code == 4
    assert f"{budget} cannot be met: 0." in error
    assert not out.exists()
    code, error = run(f"{budget} best-effort=true")
    assert code == 0
    assert out.exists()


def test_one_run_of_no_convolution_cannot_be_faster(tmp_path: Path) -> None:
    """A model without anything to cut is left as it is, whatever the budget."""
    path = tmp_path / "model.onnx"
    ir.save(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), path)
    model, report = optimize(path, "prune-channels{latency=0.5}")
    assert len(model.graph) == 1
    assert any("nothing to prune" in line for line in report.warnings)
    assert np.isfinite(report.seconds)
