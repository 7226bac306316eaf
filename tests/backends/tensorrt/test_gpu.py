# SPDX-License-Identifier: Apache-2.0
"""On a GPU: engines of both modules compute what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import burnish
from burnish.backends import onnxruntime
from burnish.backends.artifact.folder import Plan
from burnish.backends.tensorrt import module
from burnish.tools import zoo

pytestmark = [pytest.mark.gpu, pytest.mark.zoo]

TARGETS = ("tensorrt", "tensorrt-rtx")


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(module.MODULES[request.param])
    return str(request.param)


def difference(
    name: str, target: str, passes: str, folder: Path, *shapes: str, **options: Any
) -> float:
    """Relative RMS difference of an engine from the float model, over the largest output."""
    given: dict[str, Any] = {}
    if "quant" in passes:
        given["calibration"] = lambda: zoo.feeds(name, 8)
    source = zoo.fetch(name)
    plan = Plan(folder / "a", ranges=shapes, options=options)
    burnish.optimize(source, passes, target=target, artifact=plan, **given)
    errors = []
    with burnish.load_artifact(folder / "a") as engine, onnxruntime.session(source) as reference:
        for feeds in zoo.feeds(name, 3, seed=1):
            expected, got = reference.run(feeds), engine.run(feeds)
            for key, array in expected.items():
                gap = got[key].astype(np.float64) - array
                errors.append(np.sqrt(np.mean(gap**2) / np.mean(array.astype(np.float64) ** 2)))
    return float(max(errors))


def test_float32(target: str, tmp_path: Path) -> None:
    shapes = "batch=1:1:8,sequence=1:128:512"
    found = difference("minilm-l6-dynamo", target, "fuse", tmp_path, shapes, tf32=False)
    assert found < 1e-4


def test_float16(target: str, tmp_path: Path) -> None:
    shapes = "batch=1:1:8,sequence=1:128:512"
    assert difference("minilm-l6-dynamo", target, "fuse,float16", tmp_path, shapes) < 0.01


def test_int8(target: str, tmp_path: Path) -> None:
    assert difference("efficientnet-lite0", target, "fuse,quant", tmp_path, "batch=1:1:8") < 0.2


def test_dynamic_shapes(target: str, tmp_path: Path) -> None:
    shapes = "x=1x3x48x32:1x3x48x320:8x3x48x1600"
    assert difference("ppocrv6-rec", target, "fuse,float16", tmp_path, shapes) < 0.05


def test_weights_put_in_as_it_is_loaded(target: str, tmp_path: Path) -> None:
    found = difference(
        "efficientnet-lite0", target, "fuse", tmp_path, "batch=1:1:8", strip=True, tf32=False
    )
    assert found < 1e-3


def test_the_inspector_sees_layers(target: str, tmp_path: Path) -> None:
    from burnish.backends.artifact.manifest import read
    from burnish.backends.tensorrt.runtime import EngineSession

    plan = Plan(tmp_path / "a", ranges=("batch=1:1:8",))
    burnish.optimize(zoo.fetch("efficientnet-lite0"), "fuse", target=target, artifact=plan)
    session = EngineSession.open(tmp_path / "a", read(tmp_path / "a"))
    assert session.structure.kernels
    session.close()
