# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect` and the census of a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import onnx_ir as ir
import pytest

from burnish.testing import parse

_SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"

Run = Callable[..., Any]


def test_inspect(burnish: Run, model: Path) -> None:
    result = burnish("inspect", model)
    assert result.code == 0, result.err
    assert "float[N,16]" in result.out
    assert "MatMul" in result.out
    data = json.loads(burnish("inspect", model, "--json").out)
    assert data["ops"] == {"Add": 1, "Identity": 1, "MatMul": 2, "Relu": 1}
    assert data["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 16]}]


def _gelu(path: Path) -> Path:
    """A model of which the runtime makes one BiasGelu."""
    constants = "float[4] b = {1, 2, 3, 4}, float root = {1.41421356}, float one = {1}"
    body = "t = Add(x, b)  d = Div(t, root)  e = Erf(d)  o = Add(e, one)  m = Mul(t, o)"
    text = f"g (float[2,4] x) => (float[2,4] y) <{constants}, float half = {{0.5}}> "
    ir.save(parse(f"{text} {{ {body}  y = Mul(m, half) }}"), path)
    return path


def test_inspect_fused_counts_what_is_stored_and_what_is_executed(
    optimize: Run, burnish: Run, tmp_path: Path
) -> None:
    gelu = _gelu(tmp_path / "g.onnx")
    result = burnish("inspect", gelu, "--fused")
    assert result.code == 0, result.err
    assert "com.microsoft::BiasGelu" in result.out
    after = tmp_path / "after.onnx"
    assert optimize(gelu, "-o", after).code == 0
    result = burnish("inspect", gelu, after, "--fused")
    assert (f"A: {gelu}" in result.out, "note:" in result.out) == (True, False)
    data = json.loads(burnish("inspect", gelu, after, "--fused", "--json").out)
    assert data["losses"] == {str(after): []}
    sides = ("stored", "executed")
    stored, executed = ([item[side]["fused"] for item in data["models"]] for side in sides)
    assert stored == [{}, {"Gelu": 1}]
    assert executed == [{"com.microsoft::BiasGelu": 1}] * 2
    same = burnish("inspect", gelu, gelu, "--fused", "--json")
    assert [item["model"] for item in json.loads(same.out)["models"]] == [str(gelu), f"{gelu} #2"]
    assert burnish("inspect", gelu, after).code == 2


def test_census_goes_into_the_report(optimize: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    result = optimize(_gelu(tmp_path / "g.onnx"), "--census", "--report", path)
    assert result.code == 0, result.err
    assert "com.microsoft::BiasGelu" in result.out
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["census"]["before"]["stored"]["nodes"] == 6
    assert report["census"]["after"]["executed"]["ops"] == {"com.microsoft::BiasGelu": 1}


@pytest.mark.usefixtures("misbehaving")
def test_a_census_that_got_worse_is_a_warning(optimize: Run, tmp_path: Path) -> None:
    result = optimize(_gelu(tmp_path / "g.onnx"), "--census", "--passes", "hide")
    assert result.code == 0, result.err
    out = " ".join(result.out.split())
    assert "note: the runtime executes 1 fewer com.microsoft::BiasGelu than it makes" in out
