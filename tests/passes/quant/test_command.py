# SPDX-License-Identifier: Apache-2.0
"""int8 as a user of `optimize` meets it: bad input in one line, and interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.tools import cli

Build = Any
Optimize = Callable[..., tuple[int, str]]

MODEL = """g (float[N,S,32] x) => (float[N,S,24] y) {
    a = MatMul(x, w1)
    r = Relu(a)
    y = MatMul(r, w2)
}"""


@pytest.fixture
def optimize(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: Build
) -> Optimize:
    """Run `optimize model.onnx ... -o out.onnx` in this process, in a folder with that model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    ir.save(build(MODEL, w1=(32, 32), w2=(32, 24)), tmp_path / "model.onnx")

    def invoke(*words: str, passes: str = "fuse,quant{mode=static}") -> tuple[int, str]:
        line = ["optimize", "model.onnx", "--passes", passes, *words, "-o", "out.onnx"]
        monkeypatch.setattr(sys, "argv", line)
        monkeypatch.setattr(cli, "leave", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as leave:
            cli.optimize_main()
        out, err = capfd.readouterr()
        assert isinstance(leave.value.code, int)
        return leave.value.code, out + err

    return invoke


def write(folder: Path, *samples: Any, name: str = "x") -> None:
    (folder / "samples").mkdir()
    for index, sample in enumerate(samples):
        arrays: dict[str, Any] = {name: np.asarray(sample, np.float32)}
        np.savez(folder / "samples" / f"{index}.npz", **arrays)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


NAN = noise(2, 3, 32)
NAN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("samples", "name", "message"),
    [
        ([], "x", "samples has no .npz files"),
        ([noise(2, 3, 32)], "z", "0.npz: the model has no input 'z'; inputs: x"),
        ([noise(2, 3, 31)], "x", "input 'x'"),
        ([noise(2, 32)], "x", "input 'x'"),
        ([noise(2, 3, 32), NAN], "x", "1.npz: input 'x' contains NaN"),
        ([noise(2, 3, 32), np.full((2, 3, 32), np.inf)], "x", "1.npz: input 'x' contains infinity"),
    ],
    ids=["none", "wrong name", "wrong size", "wrong rank", "NaN", "infinity"],
)
def test_samples_that_do_not_fit(
    optimize: Optimize, tmp_path: Path, samples: list[Any], name: str, message: str
) -> None:
    write(tmp_path, *samples, name=name)
    before = sorted(tmp_path.rglob("*"))
    code, said = optimize("--calib", "samples")
    assert code == 2
    assert message in said
    assert said.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_without_data(optimize: Optimize, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, said = optimize()
    assert code == 2
    assert "quant-static needs calibration data" in said
    assert said.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_too_few_samples_are_warned_of(optimize: Optimize, tmp_path: Path) -> None:
    write(tmp_path, noise(1, 3, 32))
    code, said = optimize("--calib", "samples")
    assert code == 0
    assert "there is one calibration sample: nothing says that ranges suit others\n" in said


def test_samples_that_disagree_are_warned_of(optimize: Optimize, tmp_path: Path) -> None:
    write(tmp_path, *(noise(1, 3, 32, seed=i) * 10**i for i in range(4)))
    code, said = optimize("--calib", "samples")
    assert code == 0
    assert "the calibration set is too small or too uneven: " in said


def test_samples_may_differ_in_size(optimize: Optimize, tmp_path: Path) -> None:
    write(tmp_path, *(noise(1 + i % 2, 2 + i, 32, seed=i) for i in range(16)))
    code, said = optimize("--calib", "samples")
    assert code == 0, said
    assert integers(tmp_path / "out.onnx") == 2


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_activations_that_never_change(optimize: Optimize, tmp_path: Path, constant: float) -> None:
    """Zero says nothing of a range, so that what takes it stays float; any other number does."""
    write(tmp_path, *([np.full((1, 3, 32), constant)] * 8))
    code, said = optimize("--calib", "samples")
    assert code == 0
    if constant:
        assert "one number only on the calibration data: 'x'\n" in said
    assert integers(tmp_path / "out.onnx") == (2 if constant else 0)


def test_a_model_that_is_quantized_in_part(
    optimize: Optimize, tmp_path: Path, build: Build
) -> None:
    text = MODEL.replace("r = Relu(a)", "q, s, z = DynamicQuantizeLinear(a) r = Relu(a)")
    model = build(
        text.replace("(float[N,S,24] y)", "(float[N,S,24] y, uint8[N,S,32] q)"),
        w1=(32, 32),
        w2=(32, 24),
    )
    ir.save(model, tmp_path / "model.onnx")
    write(tmp_path, *(noise(1, 3, 32, seed=i) for i in range(4)))
    code, said = optimize("--calib", "samples", passes="quant{mode=static}")
    assert code == 0
    line = "the model is already quantized (1 DynamicQuantizeLinear): it is passed through as it is"
    assert line in said
    assert integers(tmp_path / "out.onnx") == 0


def integers(path: Path) -> int:
    """Count the products whose weights are int8."""
    return sum(
        maker is not None and maker.op_type == "DequantizeLinear"
        for node in ir.load(path).graph
        if node.op_type == "MatMul" and node.inputs[1] is not None
        for maker in [node.inputs[1].producer()]
    )


# --- interruption --------------------------------------------------------------------------------

# Six products; the inputs of the third have an outlier, so that it has to stay float.
DEEP = """g (float[N,32] x) => (float[N,32] y) {
    a = MatMul(x, w1)
    b = MatMul(a, w2)
    l = Mul(b, large)
    c = MatMul(l, w3)
    d = MatMul(c, w4)
    e = MatMul(d, w5)
    y = MatMul(e, w6)
}"""

# The first model is float, the second all int8, then each product is int8 alone; of the bisection
# that follows the first trial is scored, and the second takes forever.
METRIC = """
import pathlib, time
import numpy as np

calls = 0
x = np.random.default_rng(5).normal(0, 1, (64, 32)).astype(np.float32)
expected = None

def score(run):
    global calls, expected
    calls += 1
    if calls == 2 + 6 + 2:
        pathlib.Path("waiting").touch()
        time.sleep(600)
    y = run({"x": x})["y"]
    if expected is None:
        expected = y
    return float(1 - np.linalg.norm(y - expected) / np.linalg.norm(expected))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_interrupted_the_best_so_far_is_delivered(build: Build, tmp_path: Path) -> None:
    """Ctrl-C in the real process, once something good enough is known."""
    large = np.ones(32, np.float32)
    large[5] = 3000
    weights: dict[str, Any] = {f"w{i}": (32, 32) for i in (1, 2, 4, 5, 6)}
    third = np.random.default_rng(3).normal(0, 32**-0.5, (32, 32)) / large[:, None]
    model = build(DEEP, large=large, w3=third.astype(np.float32), **weights)
    ir.save(model, tmp_path / "model.onnx")
    (tmp_path / "task.py").write_text(METRIC)
    words = "model.onnx --passes quant --max-drop 10% --eval task:score --report r.json -o out.onnx"
    script = Path(sysconfig.get_path("scripts")) / "optimize"
    process = subprocess.Popen(
        [script, *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"},
        # A shell has what it starts in the background ignore this signal, tests and all.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not (tmp_path / "out.onnx").exists()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said
    report = json.loads((tmp_path / "r.json").read_text())
    (found,) = (p["details"]["mixed_precision"] for p in report["passes"] if p.get("details"))
    assert not found["complete"]
    assert 0 < found["int8"] < 6
    assert f"the best found so far is kept ({found['int8']} of 6 operators int8)" in said
    assert found["scores"]["after"] >= 0.9
    kinds = [node.op_type for node in ir.load(tmp_path / "out.onnx").graph]
    assert kinds.count("MatMulInteger") == found["int8"]
    assert kinds.count("MatMul") == 6 - found["int8"]
