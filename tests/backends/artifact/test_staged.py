# SPDX-License-Identifier: Apache-2.0
"""Artefacts in parts: what the loader makes of them is what the whole model computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import burnish
from burnish.backends import partition
from burnish.backends.artifact import staged
from burnish.backends.artifact.folder import _tensor
from burnish.backends.artifact.kinds import Request
from burnish.backends.artifact.manifest import Manifest, digests
from burnish.backends.settings import SessionSettings
from burnish.backends.target import Target
from burnish.errors import BurnishError, InputError
from burnish.testing import parse

TEXT = (
    "g (float[N,8] x) => (float[N,8] y, float[N,8] b) { a = Relu(x)  b = Exp(a)  c = Tanh(b) "
    "d = Sin(c)  e = Add(d, a)  f = Mul(e, a)  y = Sub(f, x) }"
)


def write(folder: Path, **changes: object) -> Manifest:
    """Write an artefact of three parts, all for ONNX Runtime."""
    model, target, settings = parse(TEXT), Target.parse("cpu"), SessionSettings()
    cut = partition.partition(model.clone(), 3, balance=0.5)
    folder.mkdir()
    built = staged.write(
        Request("staged", model, target, folder, settings),
        [staged.Part("onnx", stage) for stage in cut.stages],
        {"left": []},
    )
    manifest = Manifest(
        kind=built.kind or "",
        entry=built.entry,
        target=target.name,
        source="m.onnx",
        source_sha256="0" * 64,
        pipeline="",
        inputs=tuple(map(_tensor, model.graph.inputs)),
        outputs=tuple(map(_tensor, model.graph.outputs)),
        session=built.session,
        requires=built.requires,
        details=built.details,
        files=digests(folder),
    )
    manifest = dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def test_parts_compute_what_the_model_does(tmp_path: Path) -> None:
    manifest = write(tmp_path / "a")
    assert manifest.kind == "staged"
    assert list(manifest.files) == [f"part-{number}/model.onnx" for number in range(3)]
    assert manifest.details["left"] == []
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    a = np.maximum(x, 0)
    expected = (np.sin(np.tanh(np.exp(a))) + a) * a - x
    with burnish.load_artifact(tmp_path / "a", threads=1) as loaded:
        found = loaded.run({"x": x})
        assert list(found) == ["y", "b"]
        np.testing.assert_allclose(found["y"], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found["b"], np.exp(a), rtol=1e-6)
        assert list(loaded.run({"x": x[:1]}, ["b"])) == ["b"]
    with pytest.raises(BurnishError, match="is closed"):
        loaded.run({"x": x})


def test_a_part_that_the_manifest_names_and_has_not(tmp_path: Path) -> None:
    parts = write(tmp_path / "a").details["parts"]
    for folder in ("part-9", "../a/part-0"):
        write(tmp_path / folder[-1], details={"parts": [{**parts[0], "folder": folder}]})
        with pytest.raises(InputError, match=f"has no file {folder}/model.onnx"):
            burnish.load_artifact(tmp_path / folder[-1])


def test_a_session_that_lacks_an_input_says_which(tmp_path: Path) -> None:
    manifest = write(tmp_path / "a")
    session = staged.load(tmp_path / "a", manifest, SessionSettings())
    with pytest.raises(InputError, match="input 'x' is missing"):
        session.run({})
    session.close()
    with pytest.raises(BurnishError, match="the session is closed"):
        session.run({"x": np.ones((1, 8), np.float32)})
