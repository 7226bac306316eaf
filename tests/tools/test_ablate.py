# SPDX-License-Identifier: Apache-2.0
"""`burnish ablate`: a table of rules, or the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from burnish.testing import parse
from tests.tools.conftest import Run

_MODEL = """g (float[8,16] x) => (float[8,16] y) <float one = {1}, float zero = {0}> {
    a = Mul(x, one)  b = Add(a, zero)  c = Sigmoid(b)  y = Mul(b, c)
}"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with something to rewrite, and a cache of its own."""
    monkeypatch.delenv("BURNISH_MEASURE")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.onnx"
    ir.save(parse(_MODEL), path)
    return path


def test_each_rule_is_a_row(burnish: Run, small: Path) -> None:
    result = burnish("ablate", small)
    assert result.code == 0, result.err
    assert "small.onnx, rule by rule: nodes without it, speed with it" in result.out
    assert "with all rules: " in result.out
    rows = [line.split() for line in result.out.splitlines() if line.strip()]
    assert {row[0] for row in rows} >= {"multiply-by-one", "silu"}
    assert list(small.parent.glob("*.onnx")) == [small], "nothing is written"


def test_the_same_as_json(burnish: Run, small: Path) -> None:
    first = burnish("ablate", small, "--json")
    data = json.loads(first.out)
    assert data["speed"]["source"] == "measured"
    ratios = [item["decision"] and item["decision"]["ratio"] for item in data["rules"]]
    assert ratios == sorted(ratios, key=lambda ratio: -(ratio or 1))
    again = json.loads(burnish("ablate", small, "--json").out)
    assert {i["rule"] for i in again["rules"]} == {i["rule"] for i in data["rules"]}


def test_a_wrong_name_is_one_line(burnish: Run, small: Path) -> None:
    result = burnish("ablate", small, "--disable", "nonsense")
    assert result.code == 2
    assert "--disable 'nonsense' names no pass or rule of this pipeline" in result.err
