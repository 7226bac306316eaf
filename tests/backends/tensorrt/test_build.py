# SPDX-License-Identifier: Apache-2.0
"""Engines, built here for GPUs that are not here, and read back."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.tensorrt import build, module, parse, profiles, progress
from burnish.backends.tensorrt.options import BuildOptions
from burnish.backends.tensorrt.plan import is_engine, read
from burnish.errors import InputError, UnavailableError

Made = Any
Engine = Any

CONV = """g (float[N,8,16,16] x) => (float[N,8,16,16] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1)
    [act] r = Relu(a)
    [second] y = Conv<pads=[1,1,1,1]>(r, w2)
}"""
WEIGHTS = {"w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3)}


@pytest.mark.parametrize("device", ["sm75", "sm89", "sm120"])
def test_an_engine_for_a_gpu_that_is_not_here(made: Made, engine: Engine, device: str) -> None:
    path = engine(made(CONV, **WEIGHTS), device, ("N=1:1:4",))
    found = read(path)
    assert found.devices == (device,)
    assert re.fullmatch(r"1\.\d+\.\d+\.\d+", found.version)
    assert {"first", "second"} <= {node for kernel in found.kernels for node in kernel.nodes}
    assert found.summary()["products"] == {"float": 2}


def test_types_of_the_engine_are_those_of_the_model(made: Made, engine: Engine) -> None:
    half = {name: np.full(shape, 0.1, np.float16) for name, shape in WEIGHTS.items()}
    model = made(CONV.replace("float[", "float16["), **half)
    found = read(engine(model, "sm89", ("N=1",)))
    assert found.summary()["products"] == {"half": 2}
    assert "act" in {
        node for kernel in found.kernels if len(kernel.nodes) > 1 for node in kernel.nodes
    }


def test_without_a_list_the_engine_names_several(made: Made, engine: Engine) -> None:
    model = made(CONV, **WEIGHTS)
    assert is_engine(engine(model, None, ("N=1",)))


def test_the_same_model_gives_the_same_bytes(made: Made, engine: Engine) -> None:
    model = made(CONV, **WEIGHTS)
    first = engine(model, "sm89", ("N=1:2:4",)).read_bytes()
    assert engine(model, "sm89", ("N=1:2:4",)).read_bytes() == first


def test_float32_attention_has_no_kernel_and_is_taken_apart(made: Made, engine: Engine) -> None:
    text = """g (float[1,2,S,16] q, float[1,2,S,16] k, float[1,2,S,16] v) => (float[1,2,S,16] y) {
        [heads] y = Attention(q, k, v)
    }"""
    found = read(engine(made(text, opset=23), "sm89", ("S=1:32:64",)))
    assert {kernel.kind for kernel in found.kernels} >= {"product"}
    halves = text.replace("float[", "float16[")
    found = read(engine(made(halves, opset=23), "sm89", ("S=1:32:64",)))
    assert "attention" in {kernel.kind for kernel in found.kernels}


@pytest.mark.parametrize("option", ["strip", "refit"])
@pytest.mark.usefixtures("without_gpu")
def test_what_takes_a_gpu_says_so(made: Made, engine: Engine, option: str) -> None:
    with pytest.raises(UnavailableError, match=f"needs a GPU to build with {option}"):
        engine(made(CONV, **WEIGHTS), "sm89", ("N=1",), **{option: True})


@pytest.mark.parametrize(
    "options",
    [
        {"workspace": 64},
        {"level": 0},
        {"version_compatible": True},
        {"sparse": True},
        {"tf32": False},
        {"streaming": True},
    ],
)
def test_options_build(made: Made, engine: Engine, options: dict[str, Any]) -> None:
    assert read(engine(made(CONV, **WEIGHTS), "sm89", ("N=1",), **options)).kernels


def test_tf32_is_in_the_engine_or_not(made: Made, engine: Engine) -> None:
    model = made(CONV, **WEIGHTS)
    for wanted in (True, False):
        data = engine(model, "sm89", ("N=1",), tf32=wanted).read_bytes()
        assert (b"\n  tf32=1\n" in data) is wanted


def test_options_without_effect_are_told(trt: Any) -> None:
    options = BuildOptions(timing_cache="c", hardware_compatible=True)
    _, ignored = build.configure(trt, build.builder(trt), options, (), "sm89")
    assert [line.partition(" ")[0] for line in ignored] == ["hardware_compatible", "timing_cache"]


def test_progress_reaches_its_end(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made(CONV, **WEIGHTS)
    ir.save(model, tmp_path / "model.onnx")
    maker = build.builder(trt)
    parsed = parse.read(trt, maker, tmp_path / "model.onnx", model)
    shapes, _ = profiles.resolve(model, ())
    config, _ = build.configure(trt, maker, BuildOptions(), shapes, "sm89")
    seen: list[Any] = []

    def show(items: Any, total: int | None, label: str) -> Any:
        for item in items:
            seen.append((item, total, label))
            yield item

    path = tmp_path / "one.engine"
    build.write(trt, maker, parsed.network, config, path, options=BuildOptions(), show=show)
    assert [item for item, _, _ in seen] == list(range(seen[0][1]))
    assert seen[0][2] == "engine one"


def test_steps_of_phases_add_up(trt: Any) -> None:
    import queue

    steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    monitor = progress._monitor(trt, steps)
    monitor.phase_start("build", None, 2)
    monitor.phase_start("inner", "build", 4)
    for step in range(4):
        assert monitor.step_complete("inner", step)
    monitor.phase_finish("inner")
    monitor.step_complete("build", 0)
    monitor.step_complete("build", 1)
    parts = [steps.get() for _ in range(6)]
    assert parts == [25, 50, 75, 100, 100, 200]
    monitor.cancelled = True
    assert not monitor.step_complete("build", 1)


def test_impossible_shapes_are_one_line(made: Made, engine: Engine) -> None:
    model = made(
        """g (float[N,K] x) => (float[N,8] y) {
            y = MatMul(x, w)
        }""",
        w=(16, 8),
    )
    with pytest.raises(InputError, match="TensorRT builds no engine: ") as caught:
        engine(model, "sm89", ("K=1:8:8",))
    assert "\n" not in str(caught.value)
    assert "--shapes" in str(caught.value)


def test_another_file_is_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(struct.pack("<16I", *range(16)))
    with pytest.raises(InputError, match="is no TensorRT engine"):
        read(path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"worksp": 1}, "did you mean 'workspace'"),
        ({"level": "9"}, "outside int 0..5"),
        ({"strip": "perhaps"}, "not a valid bool"),
        ({"workspace": 1.5}, "not a valid int"),
    ],
)
def test_bad_options_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions.of(given)


def test_options_are_read_from_text_and_kept_short() -> None:
    options = BuildOptions.of({"workspace": "512", "tf32": "false", "plugins": "a.so,b.so"})
    assert options == BuildOptions(workspace=512, tf32=False, plugins=("a.so", "b.so"))
    assert options.as_dict() == {"workspace": 512, "tf32": False, "plugins": ["a.so", "b.so"]}
    assert BuildOptions.of(options.as_dict()) == options


def test_messages_are_collected_once(trt: Any) -> None:
    log = module.logger(trt)
    with module.messages(trt) as lines:
        for text in ("a\n  b", "a b"):
            log.log(trt.ILogger.ERROR, text)
        log.log(trt.ILogger.INFO, "no")
        log.log(trt.ILogger.WARNING, "w")
    assert module.errors(lines) == ["a b"]
    assert lines[-1] == "w"
