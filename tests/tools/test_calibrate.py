# SPDX-License-Identifier: Apache-2.0
"""`burnish calibrate` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.options import options_of
from burnish.passes.quant.calibration.ranges import Ranges, fed_to_channels, float_values
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.shapes import infer_shapes
from burnish.testing import parse
from burnish.tools.calibrate import command

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


MODEL = """g (float[N,8,6,6] x) => (float[N,8,6,6] y) {
    i = Identity(x)
    c = Conv(i, w)
    y = Softplus(c)
}"""


def add(folder: Path, name: str, count: int = 64) -> None:
    """Write a model and samples, as files and as a function that fails when told to."""
    rng = np.random.default_rng(0)
    weights = ", ".join(map(str, rng.normal(0, 0.3, 64).round(3)))
    model = parse(MODEL.replace("{", f"<float[8,8,1,1] w = {{{weights}}}> {{", 1))
    ir.save(model, folder / f"{name}.onnx")
    (folder / "samples").mkdir()
    for index in range(count):
        sample = rng.normal(0, 1, (2, 8, 6, 6)).astype(np.float32)
        np.savez(folder / "samples" / f"{index:03}.npz", x=sample)
    (folder / f"{name}_samples.py").write_text(
        "import pathlib, numpy as np\n"
        "def feeds():\n"
        "    for index, path in enumerate(sorted(pathlib.Path('samples').glob('*.npz'))):\n"
        "        if pathlib.Path('stop').exists() and index == 9:\n"
        "            raise RuntimeError('out of power')\n"
        "        yield dict(np.load(path))\n"
    )


def test_options_are_those_of_the_pass() -> None:
    """The command declares them again, so that its help loads no pass."""
    declared = {item.name: item for item in options_of(QuantStatic)}
    params = {item.name: item for item in command.params}
    method, percentile = params["method"], params["percentile"]
    assert isinstance(method.type, click.Choice)
    assert isinstance(percentile.type, click.FloatRange)
    assert tuple(method.type.choices) == declared["calibrate"].choices
    assert method.default == declared["calibrate"].default
    assert percentile.default == declared["percentile"].default
    assert (percentile.type.min, percentile.type.max) == (
        declared["percentile"].min,
        declared["percentile"].max,
    )


def test_ranges_are_found_and_used(optimize: Run, burnish: Run, tmp_path: Path) -> None:
    add(tmp_path, "m")
    done = burnish("calibrate", "m.onnx", "--calib", "samples")
    assert done.code == 0
    assert done.err == ""
    assert "wrote m.ranges.json: 4 ranges, percentile 99.99, in " in done.out
    assert "64 samples: 0 of 4 ranges differ between halves" in done.out
    assert sorted(p.name for p in tmp_path.glob("m.*")) == ["m.onnx", "m.ranges.json"]
    first = (tmp_path / "m.ranges.json").read_bytes()
    assert burnish("calibrate", "m.onnx", "--calib", "samples", "-q").out == ""
    assert (tmp_path / "m.ranges.json").read_bytes() == first
    found = Ranges.load(tmp_path / "m.ranges.json")
    assert list(found.values) == ["x", "i", "c", "y"]
    assert found.values["i"].mean is not None
    passes = "fuse,quant-static{ranges=m.ranges.json}"
    direct, by_file = tmp_path / "direct.onnx", tmp_path / "by_file.onnx"
    optimize("m.onnx", "--passes", passes, "-o", by_file)
    words = ("--passes", "fuse,quant-static", "--calib", "samples", "-o", direct)
    optimize("m.onnx", *words)
    # `fuse` drops the Identity, so the file lacks the channel means of x.
    assert by_file.stat().st_size > 0
    burnish("calibrate", "m.onnx", "--calib", "samples", "--passes", "fuse")
    optimize("m.onnx", "--passes", passes, "-o", by_file)
    assert by_file.read_bytes() == direct.read_bytes()


def test_a_cache_for_tensorrt(burnish: Run, tmp_path: Path) -> None:
    add(tmp_path, "m")
    done = burnish(
        "calibrate", "m.onnx", "--calib", "samples", "--method", "minmax", "-o", "m.cache"
    )
    assert done.code == 0
    lines = (tmp_path / "m.cache").read_text().splitlines()
    assert lines[0].startswith("TRT-")
    assert [line.partition(": ")[0] for line in lines[1:]] == ["x", "i", "c", "y"]


def test_interrupted_and_resumed_gives_the_same_bytes(burnish: Run, tmp_path: Path) -> None:
    add(tmp_path, "resumed")
    words = ("calibrate", "resumed.onnx", "--calib", "resumed_samples:feeds", "--every", 0)
    assert burnish(*words, "-o", "whole.json").code == 0
    (tmp_path / "stop").touch()
    failed = burnish(*words, "-o", "r.json")
    assert failed.code == 2
    assert "out of power" in failed.err
    assert (tmp_path / "r.json.part").exists()
    assert not (tmp_path / "r.json").exists()
    (tmp_path / "stop").unlink()
    other = burnish(*words, "-o", "r.json", "--resume", "--method", "entropy")
    assert other.code == 2
    assert "the model or an option has changed; leave out --resume" in other.err
    assert burnish(*words, "-o", "r.json", "--resume").code == 0
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not (tmp_path / "r.json.part").exists()


def test_bad_input(burnish: Run, tmp_path: Path) -> None:
    add(tmp_path, "m")
    (tmp_path / "integers.onnx").write_bytes(b"")
    ir.save(parse("g (int64[N] x) => (int64[N] y) { y = Neg(x) }"), tmp_path / "integers.onnx")
    np.savez(tmp_path / "integers.npz", x=np.zeros((2, 3), np.int64))
    np.savez(tmp_path / "nan.npz", x=np.full((2, 2, 8, 6, 6), np.nan, np.float32))
    for words, message in (
        (("m.onnx", "--calib", ""), "the name of the calibration data is empty"),
        (("m.onnx", "--calib", "nowhere"), "is neither a folder"),
        (("m.onnx", "--calib", "nan.npz"), "contains NaN"),
        (("integers.onnx", "--calib", "integers.npz"), "has no float values"),
        (("m.onnx", "--calib", "samples", "-o", "samples"), "output samples is a folder"),
        (("m.onnx", "--calib", "samples", "-o", "no/r.json"), "output folder no does not exist"),
        (("m.onnx", "--calib", "samples", "-o", "m.onnx"), "output m.onnx is the input"),
        (("m.onnx",), "--calib"),
    ):
        before = sorted(tmp_path.rglob("*"))
        done = burnish("calibrate", *words)
        assert done.code == 2, words
        assert message in done.err
        assert done.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_model_quantized_in_part_is_noted(burnish: Run, tmp_path: Path) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        y = Relu(d)
    }"""
    ir.save(parse(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).normal(0, 1, (4, 2, 4)).astype("f4"))
    done = burnish("calibrate", "m.onnx", "--calib", "s.npz")
    assert done.code == 0
    noted = "note: the model is already quantized (1 DequantizeLinear, 1 QuantizeLinear)"
    assert f"{noted}: ranges are of what is float" in done.out
    assert list(Ranges.load(tmp_path / "m.ranges.json").values) == ["x", "d", "y"]


def test_one_sample_and_constants_are_noted(burnish: Run, tmp_path: Path) -> None:
    ir.save(parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=np.full((1, 2, 4), -1, np.float32))
    done = burnish("calibrate", "m.onnx", "--calib", "s.npz")
    assert "note: there is one calibration sample" in done.out
    assert "note: one number only on the calibration data: 'x' and 1 more values" in done.out
    assert json.loads((tmp_path / "m.ranges.json").read_text())["adequacy"] is None


def test_which_values_are_calibrated() -> None:
    text = """g (float[N,4] x, bool c, int64 n) => (float[N,4] y)
        <float[4,4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}> {
        k = Transpose(w)
        r = RandomNormal <shape = [4]> ()
        h = Gemm(x, k)
        b = If (c) <
            then_branch = t () => (float[N,4] p) { p = Neg(h) },
            else_branch = e () => (float[N,4] q) { q = Identity(h) }
        >
        s = Shape(b)
        y = Add(b, r)
    }"""
    model = parse(text)
    infer_shapes(model)
    assert float_values(model) == ["x", "r", "h", "b", "y"]
    assert fed_to_channels(model) == ["x"]
