# SPDX-License-Identifier: Apache-2.0
"""What stays float: by accuracy, by time, by replay, and when it is interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.quant.search.mixed import MixedPrecision
from burnish.passes.quant.search.search import INACCURATE
from burnish.passes.quant.search.trials import Trials
from burnish.passes.quant.weighted import SLOWER
from burnish.passes.shapes import infer_shapes

Build = Any
Samples = Any

# An outlier of factor 3000 in front of the second product, which its weights take back: with one
# scale for all its inputs, int8 leaves nothing of the other channels.
CHAIN = """g (float[N,32] x) => (float[N,24] y) {
    a = MatMul(x, w1)
    b = Mul(a, large)
    c = MatMul(b, w2)
    d = Relu(c)
    y = MatMul(d, w3)
}"""
LARGE = np.ones(32, np.float32)
LARGE[5] = 3000


@pytest.fixture
def chain(build: Build) -> ir.Model:
    w2 = np.random.default_rng(3).normal(0, 32**-0.5, (32, 32)) / LARGE[:, None]
    model = build(CHAIN, w1=(32, 32), large=LARGE, w2=w2.astype(np.float32), w3=(32, 24))
    assert isinstance(model, ir.Model)
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    return model


def products(model: ir.Model) -> dict[str, int]:
    counts = {"MatMul": 0, "MatMulInteger": 0}
    for node in model.graph:
        if node.op_type in counts:
            counts[node.op_type] += 1
    return counts


def mixed(report: Any) -> Any:
    (found,) = (p.details["mixed_precision"] for p in report.passes if p.details)
    return found


def test_without_a_bound_everything_is_int8(chain: ir.Model, samples: Samples) -> None:
    model, report = burnish.optimize(chain, "quant", calibration=samples(chain, 4, 32, count=16))
    assert products(model) == {"MatMul": 0, "MatMulInteger": 3}
    assert not any(item.details for item in report.passes)


def test_what_costs_the_accuracy_stays_float(chain: ir.Model, samples: Samples) -> None:
    source = samples(chain, 4, 32, count=16)
    model, report = burnish.optimize(chain, "quant", calibration=source, max_drop=0.01)
    assert products(model) == {"MatMul": 1, "MatMulInteger": 2}
    found = mixed(report)
    assert found["float"] == {"make_c": INACCURATE}
    worst = max(found["sensitivity"], key=lambda item: item["error"])
    assert worst["regions"] == ["make_c"]
    assert found["scores"]["all_int8"] < 0.9
    assert found["scores"]["after"] > 0.99
    assert found["scores"]["measure"] == "cosine to the float outputs on 4 held-out samples"
    (line,) = report.warnings
    assert line.startswith("1 of 3 operators stay float to lose at most 1.00% of cosine")


def test_two_searches_give_the_same_bytes(
    chain: ir.Model, samples: Samples, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("one.onnx", "two.onnx")]
    for path in paths:
        source = samples(chain, 4, 32, count=16)
        burnish.optimize(chain, "quant", calibration=source, max_drop=0.01, output=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


METRIC = """
import numpy as np
calls = 0

def accuracy(run):
    global calls
    calls += 1
    if calls == {stop}:
        raise KeyboardInterrupt
    x = np.random.default_rng(5).normal(0, 1, (64, 32)).astype(np.float32)
    (y,) = run({{"x": x}}).values()
    expected = np.load({expected!r})
    return float((y.argmax(axis=1) == expected).mean())

def nothing(run):
    return float("nan")

def failing(run):
    raise KeyError("accuracy")

def feeding(run):
    run({{"z": np.zeros((1, 32), np.float32)}})
"""


@pytest.fixture
def metric(chain: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module with a task metric; `stop` is the call in which it is interrupted."""
    from burnish.backends import onnxruntime

    x = np.random.default_rng(5).normal(0, 1, (64, 32)).astype(np.float32)
    with onnxruntime.session(chain) as session:
        np.save(tmp_path / "expected.npy", session.run({"x": x})["y"].argmax(axis=1))
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, stop: int = -1) -> str:
        text = METRIC.format(stop=stop, expected=str(tmp_path / "expected.npy"))
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:accuracy"

    return write


def test_a_metric_decides_also_without_samples(chain: ir.Model, metric: Any) -> None:
    model, report = burnish.optimize(chain, "quant", max_drop=0.05, eval=metric("task_one"))
    found = mixed(report)
    assert found["scores"]["before"] == 1.0
    assert found["scores"]["after"] >= 0.95
    assert found["scores"]["all_int8"] < 0.9
    assert list(found["float"]) == ["make_c"]
    assert products(model) == {"MatMul": 1, "MatMulInteger": 2}


def test_interrupted_before_anything_is_good_enough_all_stays_float(
    chain: ir.Model, metric: Any
) -> None:
    model, report = burnish.optimize(chain, "quant", max_drop=0.05, eval=metric("task_two", 3))
    assert products(model) == {"MatMul": 3, "MatMulInteger": 0}
    assert not mixed(report)["complete"]
    assert any("interrupted: the best found so far is kept (0 of 3" in w for w in report.warnings)


def test_interrupted_later_the_best_is_kept(chain: ir.Model, metric: Any) -> None:
    # Calls: float, all int8, three alone, then bisection: half of them float does.
    model, report = burnish.optimize(chain, "quant", max_drop=0.05, eval=metric("task_three", 7))
    found = mixed(report)
    assert not found["complete"] or products(model)["MatMul"] == 1
    assert found["scores"]["after"] >= 0.95


def test_nothing_is_good_enough(chain: ir.Model, samples: Samples) -> None:
    source = samples(chain, 4, 32, count=16)
    model, report = burnish.optimize(chain, "quant", calibration=source, max_drop=0.0)
    assert products(model) == {"MatMul": 3, "MatMulInteger": 0}
    assert any("all of the model stays float" in line for line in report.warnings)


def test_bad_use(chain: ir.Model, metric: Any) -> None:
    with pytest.raises(InputError, match="nothing to judge by"):
        burnish.optimize(chain, "quant", max_drop=0.01)
    with pytest.raises(InputError, match="no pass of fuse-conv can"):
        burnish.optimize(chain, "fuse-conv", max_drop=0.01)
    with pytest.raises(InputError, match="a metric alone"):
        burnish.optimize(chain, "quant", eval="a:b")
    bad = metric("task_four").replace("accuracy", "nothing")
    with pytest.raises(InputError, match="gave nan"):
        burnish.optimize(chain, "quant", max_drop=0.01, eval=bad)
    bad = metric("task_five").replace("accuracy", "failing")
    with pytest.raises(InputError, match=r"task_five:failing failed: KeyError: 'accuracy'"):
        burnish.optimize(chain, "quant", max_drop=0.01, eval=bad)
    bad = metric("task_six").replace("accuracy", "feeding")
    with pytest.raises(InputError, match=r"task_six:feeding failed: .*missing from input feed"):
        burnish.optimize(chain, "quant", max_drop=0.01, eval=bad)


def test_measured_then_replayed_the_other_way(
    chain: ir.Model, samples: Samples, tmp_path: Path
) -> None:
    source = samples(chain, 4, 32, count=16)
    _, report = burnish.optimize(chain, "quant", calibration=source, measure=True)
    asked = [item for item in report.decisions if item.operator == "int8"]
    assert asked
    assert all(item.question.startswith("int8 for ") for item in asked)
    path = tmp_path / "report.json"
    for chosen, left in (("original", 3), ("rewritten", 0)):
        data = json.loads(json.dumps(report.as_dict()))
        for item in data["decisions"]:
            item["chosen"] = chosen
        path.write_text(json.dumps(data))
        model, again = burnish.optimize(chain, "quant", calibration=source, decisions=path)
        if chosen == "original":
            # All decisions were the other way round, so the questions that follow are others.
            assert SLOWER in mixed(again)["float"].values()
        else:
            assert products(model)["MatMul"] == left


STAGES = """g (float[N,8,32,32] x) => (float[N,16] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = HardSwish(a)
    c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2)
    d = HardSwish(c)
    e = Conv (d, w3)
    f = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (e, w2)
    g = GlobalAveragePool (f)
    h = Conv (g, w3)
    k = Softplus (h)
    y = Flatten (k)
}"""
STAGE_WEIGHTS = {"w1": (16, 8, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 1, 1)}


def test_beginnings_end_where_maps_change(build: Build, samples: Samples) -> None:
    model = build(STAGES, **STAGE_WEIGHTS)
    ctx = PassContext(Target.parse("cpu"), samples(model, 2, 8, 32, 32))
    infer_shapes(model)
    trials = Trials(MixedPrecision(), model, ctx, ctx.calibration)
    found = [[trials.describe(index) for index in piece] for piece in trials.beginnings()]
    assert [piece[-1] for piece in found] == ["c", "f"]
    assert [len(piece) for piece in found] == [3, 6]
    float_ = trials.quantized(next(trials.beginnings()))
    first = next(node for node in float_.graph if node.op_type == "QuantizeLinear")
    assert first.inputs[0] is not None
    assert first.inputs[0].name == "d"  # what follows is int8


def test_the_beginning_is_asked_about(build: Build, samples: Samples) -> None:
    model = build(STAGES, **STAGE_WEIGHTS)
    source = samples(model, 2, 8, 32, 32, count=8)
    _, report = burnish.optimize(model, "quant", calibration=source, measure=True)
    asked = {item.question: item for item in report.decisions if item.operator == "int8"}
    (details,) = (p.details for p in report.passes if "mixed_precision" in p.details)
    left = set(details["mixed_precision"]["float"])
    beginning = asked.get("int8 for the first 3 operators")
    # Not asked if kinds of operators have already left it float, or all that has weights.
    slower = beginning is None or beginning.chosen == "original" or (beginning.high or 1) < 1
    assert not slower or left >= {"a", "c"}
    assert slower or not any("the first 6" in text for text in asked)
    for text in asked:
        if text.endswith(" after all"):
            assert text.removesuffix(" after all") in asked
