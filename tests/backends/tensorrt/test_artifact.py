# SPDX-License-Identifier: Apache-2.0
"""Artefacts with engines: what is in them, and what becomes of them on the wrong machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from click.testing import CliRunner

import burnish
from burnish.backends.artifact.folder import Plan
from burnish.backends.artifact.manifest import Manifest, read
from burnish.backends.tensorrt import gpu, runtime
from burnish.errors import InputError, UnavailableError

pytest.importorskip("tensorrt_rtx")

Made = Any

CONV = """g (float[N,8,16,16] x) => (float[N,8,16,16] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1)
    [act] y = Relu(a)
}"""


@pytest.fixture
def artifact(made: Made, tmp_path: Path) -> Path:
    burnish.optimize(
        made(CONV, w1=(8, 8, 3, 3)),
        "fuse,float16",
        target="tensorrt-rtx:sm89,sm120",
        artifact=Plan(tmp_path / "a", ranges=("N=1:2:4",), options={"workspace": 64}),
    )
    return tmp_path / "a"


def test_one_engine_for_each_compute_capability(artifact: Path) -> None:
    manifest = read(artifact)
    assert manifest.kind == "tensorrt-engine"
    assert manifest.target == "tensorrt-rtx:sm89,sm120"
    assert set(manifest.files) == {"sm89.engine", "sm120.engine"}
    assert manifest.requires["compute_capability"] == ["sm120", "sm89"]
    assert manifest.requires["tensorrt-rtx"] == manifest.versions["tensorrt-rtx"]
    assert manifest.details["options"] == {"workspace": 64}
    assert manifest.profiles[0].inputs["x"].max == (4, 8, 16, 16)
    for about in manifest.details["engines"].values():
        assert about["structure"]["products"] == {"half": 1}
    assert manifest.details["network"]["kinds"]["convolution"] == 1
    assert manifest.details["network"]["types"]["half"] >= 1


def test_nothing_of_the_machine_goes_in(artifact: Path, made: Made, tmp_path: Path) -> None:
    burnish.optimize(
        made(CONV, w1=(8, 8, 3, 3)),
        "fuse,float16",
        target="tensorrt-rtx:sm89,sm120",
        artifact=Plan(tmp_path / "b", ranges=("N=1:2:4",), options={"workspace": 64}),
    )
    for name in ("manifest.json", "sm89.engine", "sm120.engine"):
        data = (artifact / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert str(tmp_path).encode() not in data


DOUBLE = """g (float[2,8] x) => (float[2,8] y) {
    a = MatMul(x, w)  b = Tanh(a)  d = Cast<to=11>(b)  [wide] e = Exp(d)  f = Cast<to=1>(e)
    h = MatMul(f, w)  i = Tanh(h)  j = MatMul(i, w)  k = Tanh(j)  l = MatMul(k, w)  y = Relu(l)
}"""


def test_float64_within_the_model_is_a_warning_that_names_the_nodes(
    made: Made, tmp_path: Path
) -> None:
    plan = Plan(tmp_path / "a")
    _, report = burnish.optimize(
        made(DOUBLE, w=(8, 8)), "dead-code", target="tensorrt-rtx:sm89", artifact=plan
    )
    (line,) = (line for line in report.warnings if "float64" in line)
    assert line.startswith("TensorRT computes in float32 what is float64 in the model: Cast '")
    assert "Exp 'wide'" in line
    assert "--engine fallback=onnxruntime" in line
    assert read(tmp_path / "a").kind == "tensorrt-engine"


def test_with_a_fallback_float64_stays_with_onnx_runtime(made: Made, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "a", options={"fallback": "onnxruntime"})
    _, report = burnish.optimize(
        made(DOUBLE, w=(8, 8)), "dead-code", target="tensorrt-rtx:sm89", artifact=plan
    )
    assert not any("in float32 what is float64" in line for line in report.warnings)
    manifest = read(tmp_path / "a")
    assert manifest.kind == "staged"
    assert {"wide", "Cast_d", "Cast_f"} <= {left["node"] for left in manifest.details["left"]}


@pytest.mark.parametrize("end", ["x", "y"])
def test_float64_inputs_and_outputs_are_refused(made: Made, tmp_path: Path, end: str) -> None:
    text = {
        "x": "g (double[2,8] x) => (float[2,8] y) { [end] a = Cast<to=1>(x)  y = Exp(a) }",
        "y": "g (float[2,8] x) => (double[2,8] y) { a = Exp(x)  [end] y = Cast<to=11>(a) }",
    }[end]
    with pytest.raises(InputError, match=r"Cast 'end'.*has no float64"):
        burnish.optimize(
            made(text), "dead-code", target="tensorrt-rtx:sm89", artifact=Plan(tmp_path / "a")
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("without_gpu")
def test_running_takes_a_gpu(artifact: Path) -> None:
    with pytest.raises(UnavailableError, match=r"there is no (NVIDIA driver|GPU) on"):
        burnish.load_artifact(artifact)


def test_an_engine_for_another_gpu(artifact: Path) -> None:
    manifest = read(artifact)
    assert runtime.pick(manifest, "sm89") == "sm89.engine"
    with pytest.raises(UnavailableError, match=r"this GPU is sm75; build it with --target .*sm75"):
        runtime.pick(manifest, "sm75")


def test_one_engine_for_all_runs_on_all_but_the_oldest(made: Made, tmp_path: Path) -> None:
    model = made(CONV, w1=(8, 8, 3, 3))
    burnish.optimize(model, "fuse", target="tensorrt-rtx", artifact=tmp_path / "a")
    manifest = read(tmp_path / "a")
    for capability in ("sm80", "sm86", "sm120"):
        assert runtime.pick(manifest, capability) == "any.engine"
    with pytest.raises(UnavailableError, match="engines for sm80 and later; this GPU is sm75"):
        runtime.pick(manifest, "sm75")


@pytest.mark.parametrize(
    ("built", "installed", "loose", "loads"),
    [
        ("1.7.1.116", "1.7.1.116", False, True),
        ("1.7.1.116", "1.8.0.1", False, False),
        ("1.7.1.116", "1.8.0.1", True, True),
        ("1.8.0.1", "1.7.1.116", True, False),
        ("1.7.1.116", "2.0.0.1", True, False),
    ],
)
def test_an_engine_of_another_version(
    artifact: Path, built: str, installed: str, loose: bool, loads: bool
) -> None:
    manifest = read(artifact)
    requires = dict(manifest.requires) | {"tensorrt-rtx": built, "version_compatible": loose}
    manifest = dataclasses.replace(manifest, requires=requires)
    if loads:
        runtime.check_version(manifest, installed)
        return
    with pytest.raises(UnavailableError, match=f"built by tensorrt-rtx {built}; {installed} is"):
        runtime.check_version(manifest, installed)


class Runtime:
    """CUDA's answers on machines that are not at hand."""

    class cudaError_t:
        """The statuses that are told apart."""

        cudaSuccess = "ok"
        cudaErrorInsufficientDriver = type("S", (), {"name": "cudaErrorInsufficientDriver"})()
        cudaErrorNoDevice = type("S", (), {"name": "cudaErrorNoDevice"})()

    def __init__(self, status: str, driver: int) -> None:
        self.status, self.driver = getattr(self.cudaError_t, status), driver

    def cudaGetDeviceCount(self) -> Any:
        return self.status, 0

    def cudaDriverGetVersion(self) -> Any:
        return "ok", self.driver

    def cudaRuntimeGetVersion(self) -> Any:
        return "ok", 13000


@pytest.mark.parametrize(
    ("status", "driver", "message"),
    [
        ("cudaErrorInsufficientDriver", 0, "there is no NVIDIA driver"),
        ("cudaErrorInsufficientDriver", 12020, "too old: it runs CUDA 12.2, and this takes 13.0"),
        ("cudaErrorNoDevice", 13000, "there is no GPU on this machine"),
    ],
)
def test_what_is_wrong_with_the_machine(
    monkeypatch: pytest.MonkeyPatch, status: str, driver: int, message: str
) -> None:
    monkeypatch.setattr(gpu, "require", lambda *_, **__: Runtime(status, driver))
    with pytest.raises(UnavailableError, match=message):
        gpu.runtime("tensorrt-rtx")


def test_a_request_outside_the_profiles(artifact: Path) -> None:
    from burnish.backends.profiles import choose

    with pytest.raises(InputError, match=r"no profile covers a request of x \[5, 8, 16, 16\]"):
        choose(read(artifact).profiles, {"x": (5, 8, 16, 16)})


def test_the_command_line(made: Made, tmp_path: Path) -> None:
    from burnish.tools.inspect import command as inspect
    from burnish.tools.optimize import command as optimize

    ir.save(made(CONV, w1=(8, 8, 3, 3)), tmp_path / "m.onnx")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "m.onnx"), "-o", f"{out}/", "--target", "tensorrt-rtx:sm89"]
    arguments += ["--passes", "fuse", "--no-measure", "--shapes", "N=1:1:2", "--engine", "level=1"]
    done = CliRunner().invoke(optimize, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    manifest = Manifest.of(json.loads((out / "manifest.json").read_text(encoding="utf-8")))
    assert manifest.details["options"] == {"level": 1}
    shown = CliRunner().invoke(inspect, [str(out)], catch_exceptions=False)
    assert "for sm89: " in " ".join(shown.output.split())
    shown = CliRunner().invoke(inspect, [str(out / "sm89.engine"), "--json"])
    data = json.loads(shown.output)
    assert data["devices"] == ["sm89"]
    assert any("first" in kernel["nodes"] for kernel in data["kernels"])


def test_a_cpu_target_has_no_engines(made: Made, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "a", "tensorrt-engine")
    with pytest.raises(InputError, match="engines are not built for target cpu"):
        burnish.optimize(made(CONV, w1=(8, 8, 3, 3)), "fuse", artifact=plan)
