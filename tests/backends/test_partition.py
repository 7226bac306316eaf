# SPDX-License-Identifier: Apache-2.0
"""Stages of a pipeline: they compose to the model, cost alike, and hand on little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish import api
from burnish.backends import numeric
from burnish.backends.feeds import random_feeds
from burnish.backends.onnxruntime import session
from burnish.backends.partition import partition, write
from burnish.errors import InputError
from burnish.testing import parse
from burnish.tools import zoo


def chain(layers: int, wide: int = -1) -> ir.Model:
    """Products of like cost; the value behind `wide` of them is four times as large."""
    rng = np.random.default_rng(0)
    body, last, weights, width = [], "x", {}, 16
    for layer in range(layers):
        following = 64 if layer == wide else 16
        weights[f"w{layer}"] = rng.standard_normal((width, following)).astype(np.float32)
        body.append(f"h{layer} = MatMul({last}, w{layer})  r{layer} = Relu(h{layer})")
        last, width = f"r{layer}", following
    return parse(
        f"g (float[N,16] x) => (float[N,{width}] y) {{ {' '.join(body)} y = Identity({last}) }}",
        **weights,
    )


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_chain_is_cut_into_like_parts(stages: int) -> None:
    model = chain(12)
    found = partition(model, stages)
    assert len(found.stages) == stages
    assert found.imbalance < 0.1
    assert sum(stage.nodes for stage in found.stages) == 25
    # The whole model's nodes, each in one stage, wired by name.
    for before, after in zip(found.stages, found.stages[1:], strict=False):
        assert after.inputs == before.outputs
    assert not found.shared


def test_the_cut_avoids_what_is_large() -> None:
    # Between the fourth and fifth of eight products lies the middle, and a value of 4 times 16.
    found = partition(chain(8, wide=3), 2, balance=0.7)
    assert found.stages[0].bytes == 16 * 4  # one row of 16 floats
    assert found.stages[1].bytes == 0


def test_a_value_used_twice_is_paid_once_and_skips_stages() -> None:
    model = parse(
        "g (float[N,8] x) => (float[N,8] y) { a = Relu(x)  b = Exp(a)  c = Tanh(b)  d = Sin(c) "
        "e = Add(d, a)  f = Mul(e, a)  y = Sub(f, x) }"
    )
    found = partition(model, 3, balance=0.2)
    assert "a" in found.stages[0].outputs
    assert "x" in found.stages[2].inputs


def test_weights_of_two_stages_are_reported() -> None:
    model = parse(
        "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> "
        "{ a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = Relu(c) }"
    )
    found = partition(model, 2)
    assert found.shared == {"w": 16}
    assert all(stage.weights == 16 for stage in found.stages)


def test_subgraphs_functions_and_outputs_of_constants() -> None:
    model = parse(
        "g (float[2] x, bool c) => (float[2] y, float[2] k, float[2] x2) "
        "<float[2] w = {1, 2}> {"
        "  k = Neg(w)  a = Relu(x)  b = Add(a, k)  x2 = Identity(x)"
        "  d = If(c) <then_branch = t () => (float[2] u) { u = Add(b, a) },"
        "             else_branch = e () => (float[2] v) { v = Sub(b, w) }>"
        "  f = Exp(d)  y = Mul(f, b) }"
    )
    for stages in (2, 3, 4):
        found = partition(model.clone(), stages, balance=1.0)
        assert found.outputs == ("y", "k", "x2")


def test_measured_times_are_a_cost_too() -> None:
    found = partition(chain(8), 2, cost="time", balance=1.0)
    assert all(stage.cost > 0 for stage in found.stages)


@pytest.mark.parametrize(
    ("stages", "balance", "message"),
    [
        (1, 0.1, "1 stages are no partition"),
        (9, 0.1, "nodes that depend on inputs make no 9 stages; ask for fewer"),
        (2, -1.0, "a balance of -1 is none"),
    ],
)
def test_what_cannot_be_cut(stages: int, balance: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        partition(chain(2), stages, balance=balance)


def test_files(tmp_path: Path) -> None:
    found = partition(chain(6), 3)
    write(found, tmp_path / "stages")
    index = json.loads((tmp_path / "stages" / "partition.json").read_text())
    values = {"x": np.ones((2, 16), np.float32)}
    with session(chain(6)) as whole:
        expected = whole.run(values)
    for stage in index["stages"]:
        path = tmp_path / "stages" / stage["file"]
        onnx.checker.check_model(path, full_check=True)
        with session(path) as loaded:
            values |= loaded.run({name: values[name] for name in stage["inputs"]})
    assert numeric.compare_outputs(expected, {name: values[name] for name in index["outputs"]}).ok
    write(found, tmp_path / "stages")
    assert [path.name for path in tmp_path.iterdir()] == ["stages"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(InputError, match="it is not replaced"):
        write(found, tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        write(found, tmp_path / "mine" / "file")


@pytest.mark.zoo
@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("name", ["minilm-l6-dynamo", "efficientnet-lite0"])
def test_real_models_are_balanced_and_compose(name: str, stages: int) -> None:
    path = zoo.fetch(name)
    found = partition(api.load(path), stages)
    assert found.imbalance < 0.15
    with session(path) as whole:
        feeds = random_feeds(whole, seed=7)
        assert numeric.compare_outputs(whole.run(feeds), found.run(feeds)).ok
