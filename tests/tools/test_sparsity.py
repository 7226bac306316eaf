# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect --sparsity` on a file: table, JSON, chart, bad usage."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from burnish.backends.onnxfile import save
from burnish.testing import parse, run_pass
from burnish.tools.inspect import command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    model = parse("g (float[N,32] x) => (float[N,64] y) { y = MatMul(x, w) }", w=array)
    model.graph[0].name = "dense"
    run_pass("prune{pattern=2:4}", model)
    save(model, tmp_path / "sparse.onnx")
    return tmp_path / "sparse.onnx"


def test_table(path: Path) -> None:
    done = CliRunner().invoke(command, [str(path), "--sparsity"], catch_exceptions=False)
    assert done.exit_code == 0
    row = next(line.split() for line in done.output.splitlines() if "dense" in line.split())
    assert row[:5] == ["dense", "32x64", "2,048", "50.0%", "100.0%"]
    assert "weights, bitmask: 4.4 kB" in done.output


def test_json_and_chart(path: Path, tmp_path: Path) -> None:
    svg = tmp_path / "zeros.svg"
    arguments = [str(path), "--sparsity", "--json", "--plot", str(svg), "--pattern", "1:4"]
    data = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).output)
    (layer,) = data["layers"]
    assert (layer["zeros"], layer["conform"], data["pattern"]) == (1024, 0.0, "1:4")
    bars = [float(e.get("width", "")) for e in ET.parse(svg).iter() if e.get("x") == "320"]
    assert len(bars) == 2
    assert bars[1] == 0.5 * bars[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "a.svg"], "--plot draws what --sparsity shows"),
        (["--sparsity", "--fused"], "exclude each other"),
        (["--sparsity", "--pattern", "4:4"], "keeps nothing, or everything"),
        (["--sparsity", "--pattern", "block:4x1"], "is no N:M pattern"),
        (["--sparsity", "--plot", "/nowhere/a.svg"], "cannot write to folder /nowhere"),
    ],
)
def test_bad_usage(path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(command, [str(path), *arguments])
    assert done.exit_code != 0
    assert message in f"{done.output}{done.exception}"
