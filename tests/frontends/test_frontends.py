# SPDX-License-Identifier: Apache-2.0
"""`load` finds the frontend for a source, built in or installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from burnish.errors import InputError
from burnish.frontends import load

PLUGIN = """
from burnish.frontends import Loaded, load as load_any

def can_load(source):
    return str(source).endswith(".relu")

def load(source):
    size = open(source).read()
    text = '<ir_version: 10, opset_import: ["": 21]> '
    text += f"g (float[{size}] x) => (float[{size}] y) {{ y = Relu(x) }}"
    return Loaded(load_any(text).model, ("from a plugin",), "0" * 64)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that brings a frontend; returns the folder of its metadata."""
    module = f"relu_frontend_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(PLUGIN)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[burnish.frontends]\nrelu = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return info


def test_an_installed_frontend_is_found(plugin: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.relu"
    source.write_text("7")
    for loaded in (load(source), load(source, frontend="relu")):
        assert loaded.notes == ("from a plugin",)
        assert loaded.model.graph.inputs[0].shape == [7]


def test_a_frontend_of_a_taken_name_is_an_error(plugin: Path, tmp_path: Path) -> None:
    entries = plugin / "entry_points.txt"
    entries.write_text(entries.read_text().replace("relu =", "onnx ="))
    with pytest.raises(InputError, match="two frontends are called 'onnx'"):
        load(tmp_path / "m.relu")


def test_unknown_frontend() -> None:
    with pytest.raises(InputError, match=r"unknown frontend 'onx'; did you mean 'onnx'?"):
        load("m.onnx", frontend="onx")


def test_a_frontend_can_be_forced(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float x) => (float y) { y = Relu(x) }'
    odd = tmp_path / "m.model"
    odd.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert len(load(odd, frontend="onnx").model.graph) == 1


def test_nothing_heavy_is_imported_for_the_others() -> None:
    code = (
        "import sys, burnish.frontends\n"
        "heavy = {'onnx', 'onnx_ir', 'numpy', 'torch', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "text = '<ir_version: 10, opset_import: [\"\": 21]> '\n"
        "burnish.frontends.load(text + 'g (float x) => (float y) { y = Relu(x) }')\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
