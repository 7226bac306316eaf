# SPDX-License-Identifier: Apache-2.0
"""The public API: what it takes, what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import burnish
from burnish.errors import InputError
from burnish.testing import parse

_TEXT = "g (float[N] x) => (float[N] y) { i = Identity(x)  y = Relu(i) }"


def test_every_public_name_exists() -> None:
    for name in burnish.__all__:
        assert getattr(burnish, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        burnish.nonsense  # noqa: B018


def test_import_costs_nothing() -> None:
    code = "import sys, burnish; assert not {'numpy', 'onnx', 'onnx_ir'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "proto", "model"])
def test_sources(kind: str, tmp_path: Path) -> None:
    model = parse(_TEXT)
    path = tmp_path / "m.onnx"
    ir.save(model, path)
    sources = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "proto": onnx.load(path),
        "model": model,
    }
    optimized, report = burnish.optimize(sources[kind], "cleanup")
    assert [node.op_type for node in optimized.graph] == ["Relu"]
    assert (report.before.nodes, report.after.nodes) == (2, 1)
    assert len(model.graph) == 2, "the caller's model is not edited"


def test_output_runs(tmp_path: Path) -> None:
    import onnxruntime

    burnish.optimize(parse(_TEXT), "cleanup", output=tmp_path / "o.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "o.onnx")
    (y,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
    assert list(np.asarray(y)) == [0, 2]


def test_passes_mix_text_and_objects() -> None:
    _, report = burnish.optimize(parse(_TEXT), ["cleanup", burnish.Pipeline.parse("cse")])
    assert report.pipeline.endswith(",cse")


def test_an_opset_the_target_does_not_run() -> None:
    newest = onnx.defs.onnx_opset_version()
    if newest <= burnish.Target.parse("cpu").max_opset:
        pytest.skip("the runtime runs every opset that onnx knows")
    text = f'<ir_version: 10, opset_import: ["" : {newest}]> {_TEXT}'
    with pytest.raises(InputError, match=rf"imports opset {newest}; target cpu runs up to \d+"):
        burnish.optimize(parse(text), "cleanup")


def test_load() -> None:
    assert [node.op_type for node in burnish.load(parse(_TEXT)).graph] == ["Identity", "Relu"]
