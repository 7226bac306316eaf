# SPDX-License-Identifier: Apache-2.0
"""Small models, and engines of them for another machine's GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends.tensorrt import build, module, parse, profiles, surgery
from burnish.backends.tensorrt.options import BuildOptions

Made = Callable[..., ir.Model]
Engine = Callable[..., Path]


@pytest.fixture(scope="session")
def trt() -> Any:
    """TensorRT for RTX, which builds without a GPU."""
    pytest.importorskip("tensorrt_rtx")
    return module.load("tensorrt-rtx")


@pytest.fixture
def made() -> Made:
    """Make a model from text, with random normal weights: `made(text, w=(8, 3, 3, 3))`."""

    def make(text: str, opset: int = 21, **weights: tuple[int, ...] | np.ndarray) -> ir.Model:
        domains = f'"" : {opset}, "com.microsoft" : 1'
        proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]> {text}")
        rng = np.random.default_rng(0)
        for name, given in weights.items():
            array = given if isinstance(given, np.ndarray) else rng.normal(0, 0.1, given)
            kept = array if isinstance(given, np.ndarray) else array.astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(kept, name))
        return ir.from_proto(proto)

    return make


@pytest.fixture
def engine(trt: Any, tmp_path: Path) -> Engine:
    """Build an engine: `engine(model, device="sm89", shapes=("x=1x4:2x4:8x4",), strip=True)`."""

    def make(
        model: ir.Model,
        device: str | None = "sm89",
        shapes: tuple[str, ...] = (),
        **options: Any,
    ) -> Path:
        source = tmp_path / "model.onnx"
        ir.save(surgery.prepare(model), source)
        maker = build.builder(trt)
        parsed = parse.read(trt, maker, source, model)
        given, _ = profiles.resolve(model, profiles.parse(shapes, model) if shapes else ())
        chosen = BuildOptions(**options)
        config, _ = build.configure(trt, maker, chosen, given, device)
        path = tmp_path / f"{device or 'any'}.engine"
        build.write(trt, maker, parsed.network, config, path, options=chosen)
        return path

    return make


@pytest.fixture
def without_gpu() -> None:
    """Skip where there is a GPU: the test is of what happens without one."""
    from cuda.bindings import runtime

    status, count = runtime.cudaGetDeviceCount()
    if status == runtime.cudaError_t.cudaSuccess and count:
        pytest.skip("there is a GPU")
