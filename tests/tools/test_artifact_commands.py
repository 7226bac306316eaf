# SPDX-License-Identifier: Apache-2.0
"""Artefacts from the command line: made, checked, run, served and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import parse

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run: m.onnx, requests r.jsonl, samples in s/."""
    monkeypatch.chdir(tmp_path)
    made = parse("g (float[N,8] x) => (float[N,8] y) { i = Identity(x)  e = Exp(i)  y = Relu(e) }")
    ir.save(made, "m.onnx")
    Path("r.jsonl").write_text("".join(f'{{"x": [{n}, 8]}}\n' for n in (1, 2, 2, 3, 8, 9)))
    Path("s").mkdir()
    for number in range(3):
        x = np.full((number + 1, 8), number, np.float32)
        np.savez(f"s/{number}.npz", x=x)
    return tmp_path


def test_made_checked_and_run(burnish: Run, folder: Path) -> None:
    made = burnish("optimize", "m.onnx", "-o", "a/")
    assert made.code == 0, made.err
    assert "wrote a" in made.out
    assert not Path("m.opt.onnx").exists()
    checked = burnish("verify-artifact", "a", "--source", "m.onnx")
    assert checked.code == 0, checked.err
    assert "as built: kind onnx, target cpu" in checked.out
    assert "relative error 0.00e+00 against m.onnx" in checked.out
    assert burnish("run", "a", "--input", "s/2.npz", "--output", "y.npz").code == 0
    np.testing.assert_allclose(np.load("y.npz")["y"], np.full((3, 8), np.exp(2.0)), rtol=1e-6)
    served = burnish("run", "a", "--input", "s", "--output", "out", "--workers", 2)
    assert served.code == 0, served.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.npz", "1.npz", "2.npz"]
    assert np.load("out/1.npz")["y"].shape == (2, 8)
    data = json.loads(burnish("verify-artifact", "a", "--json").out)
    assert data["manifest"]["kind"] == "onnx"
    assert data["skipped"] == "no --source was given"


def test_model_and_artifact_at_once(burnish: Run, folder: Path) -> None:
    made = burnish("optimize", "m.onnx", "-o", "n.onnx", "--artifact", "a", "--threads", 2)
    assert made.code == 0, made.err
    assert Path("n.onnx").is_file()
    assert json.loads(Path("a/manifest.json").read_text())["session"]["threads"] == 2


def test_profiles_from_traffic(burnish: Run, folder: Path) -> None:
    shown = burnish("profiles", "r.jsonl", "--max-padding", 0.2)
    assert "2 profiles, the fewest there can be, for 6 requests: 20.0% padding" in shown.out
    data = json.loads(burnish("profiles", "r.jsonl", "--padded", "--json").out)
    assert [p["inputs"]["x"]["max"] for p in data["profiles"]] == [[3, 8], [9, 8]]
    made = burnish(
        "optimize", "m.onnx", "--artifact", "a", "--shapes", "r.jsonl", "--pad", "x=0",
        "--unpad", "y:0=x:0",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert "note: 2 profiles" in made.out
    assert burnish("run", "a", "--input", "s/0.npz", "--output", "y.npz").code == 0
    np.testing.assert_array_equal(np.load("y.npz")["y"], np.ones((1, 8), np.float32))
    assert burnish("verify-artifact", "a", "--source", "m.onnx").code == 0
    np.savez("large.npz", x=np.ones((10, 8), np.float32))
    refused = burnish("run", "a", "--input", "large.npz", "--output", "y.npz")
    assert refused.code == 2
    assert "no profile covers a request of x [10, 8]" in refused.err
    assert "build the artefact with --shapes that include it" in refused.err


def test_partition(burnish: Run, folder: Path) -> None:
    made = burnish("partition", "m.onnx", "--stages", 2, "-o", "stages", "--balance", 1)
    assert made.code == 0, made.err
    assert "the stages compute what m.onnx does; wrote stages" in made.out
    assert sorted(path.name for path in Path("stages").iterdir()) == [
        "partition.json",
        "stage-0.onnx",
        "stage-1.onnx",
    ]


def test_bench_of_artifacts(burnish: Run, folder: Path) -> None:
    assert burnish("optimize", "m.onnx", "--artifact", "a").code == 0
    few = ("--repeats", 4, "--loads", 2)
    shown = burnish("bench", "m.onnx", "a", *few, "--batch", "1,4", "--profile", "--plot", "p.svg")
    assert shown.code == 0, shown.err
    assert "batch 1: 4 rounds in turns, 2 loads" in shown.out
    assert "ratio (95% interval)" in shown.out
    assert "time in kernels" in shown.out
    assert Path("p.svg").read_text().startswith("<svg")
    data = json.loads(burnish("bench", "a", *few, "--record", "--memory", "--json").out)
    assert data["timings"][0]["peak_bytes"] > 1e6
    recorded = json.loads(Path("a/measured.json").read_text())["entries"]
    assert recorded[0]["figures"] == data
    assert burnish("verify-artifact", "a").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimize m.onnx --kind ort", "--kind is for an artefact; add --artifact DIR"),
        ("optimize m.onnx --artifact s", "folder s is not empty and is no artefact"),
        ("optimize m.onnx --artifact a --kind otr", "did you mean 'ort'"),
        ("optimize m.onnx --artifact a --provider cudda", "unknown execution provider 'cudda'"),
        ("optimize m.onnx --artifact a -o b/", "-o and --artifact name two folders"),
        ("optimize m.onnx --artifact a --shapes no.csv", "requests no.csv cannot be read"),
        ("optimize m.onnx --artifact a --shapes r.jsonl --pad x", "--pad 'x' is not INPUT=VALUE"),
        ("run s --input s/0.npz --output y.npz", "s is no artefact"),
        ("verify-artifact no", "no is no artefact"),
        ("profiles m.onnx", "neither .jsonl nor .csv"),
        ("partition m.onnx --stages 9 -o p", "make no 9 stages"),
        ("bench m.onnx --record", "--record is for artefacts"),
        ("bench m.onnx --batch 0", "--batch '0' is not N,N,..."),
        ("bench no.onnx", "no such model: no.onnx"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    words: str, message: str, burnish: Run, folder: Path
) -> None:
    before = sorted(folder.rglob("*"))
    result = burnish(*words.split())
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_padding_that_changes_outputs_is_exit_3(burnish: Run, folder: Path) -> None:
    result = burnish("optimize", "m.onnx", "--artifact", "a", "--shapes", "r.jsonl", "--pad", "x=0")
    assert result.code == 3
    assert "padding to profile-0 changes what the model computes" in result.err
    assert not Path("a").exists()


def test_inputs_of_run(burnish: Run, folder: Path) -> None:
    assert burnish("optimize", "m.onnx", "--artifact", "a").code == 0
    for words, message in (
        ("--input no.npz --output y.npz", "there is no .npz file at no.npz"),
        ("--input m.onnx --output y.npz", "m.onnx is no .npz file"),
        ("--input s --output m.onnx", "output m.onnx is a file"),
        ("--input s/0.npz --output s", "output s is a folder"),
    ):
        result = burnish("run", "a", *words.split())
        assert result.code == 2
        assert message in result.err
