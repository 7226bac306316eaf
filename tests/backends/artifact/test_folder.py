# SPDX-License-Identifier: Apache-2.0
"""Artefacts: written whole, the same twice, and refused once they were changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import burnish
from burnish import api
from burnish.backends import numeric
from burnish.backends.artifact import manifest
from burnish.backends.artifact.folder import Plan
from burnish.backends.onnxfile import save
from burnish.backends.onnxruntime import session
from burnish.backends.providers import Cuda
from burnish.backends.settings import SessionSettings
from burnish.errors import BurnishError, InputError, UnavailableError
from burnish.testing import parse

_SCHEMA = Path(__file__).parents[3] / "docs" / "manifest.schema.json"


def some_feeds(tokens: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, tokens, 8)).astype(np.float32)
    return {"x": x, "mask": np.ones((2, tokens, 1), np.float32)}


def edit(artifact: Path, **changes: Any) -> None:
    """Change fields of a manifest."""
    path = artifact / manifest.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["onnx", "onnx-optimized", "ort"])
def test_an_artifact_computes_what_its_source_does(kind: str, model: Path, tmp_path: Path) -> None:
    _, report = api.optimize(model, artifact=Plan(tmp_path / "a", kind))
    feeds = some_feeds()
    with session(model) as original, burnish.load_artifact(tmp_path / "a") as loaded:
        assert numeric.compare_outputs(original.run(feeds), loaded.run(feeds)).ok
        assert list(loaded.run(feeds, ["each"])) == ["each"]
        assert loaded.manifest.kind == kind
    # What is bound to hardware says so, and what is not does not.
    assert any("is bound to onnxruntime" in line for line in report.warnings) == (kind != "onnx")
    assert bool(loaded.manifest.requires) == (kind != "onnx")
    with pytest.raises(BurnishError, match="is closed"):
        loaded.run(feeds)


def test_the_same_build_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in "ab":
        api.optimize(model, artifact=tmp_path / name)
    contents = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "ab"
    ]
    assert contents[0] == contents[1]
    text = (tmp_path / "a" / manifest.MANIFEST).read_text()
    assert str(tmp_path) not in text


@pytest.mark.parametrize("kind", ["onnx", "ort"])
def test_the_manifest_follows_its_schema(kind: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    np.savez(folder / "0.npz", allow_pickle=False, **some_feeds())
    api.optimize(model, artifact=Plan(tmp_path / "a", kind), calibration=folder, max_error=0.1)
    data = json.loads((tmp_path / "a" / manifest.MANIFEST).read_text())
    jsonschema.validate(data, json.loads(_SCHEMA.read_text()))
    assert data["calibration"] is not None
    assert data["max_error"] == 0.1
    assert data["precision"]["FLOAT"] == 64
    assert json.loads(manifest.Manifest.of(data).to_json()) == data


def test_nothing_is_left_behind_and_an_artifact_is_replaced(artifact: Path, model: Path) -> None:
    before = (artifact / manifest.MANIFEST).read_bytes()
    api.optimize(model, "cleanup", artifact=artifact)
    assert (artifact / manifest.MANIFEST).read_bytes() != before
    assert {path.name for path in artifact.parent.iterdir()} == {"artifact", "m.onnx"}


def test_a_folder_that_is_no_artifact_is_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("four years of work")
    with pytest.raises(InputError, match="is not empty and is no artefact"):
        api.optimize(model, artifact=tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        api.optimize(model, artifact=model)
    with pytest.raises(InputError, match="does not exist; create it"):
        api.optimize(model, artifact=tmp_path / "no" / "a")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_build_that_fails_leaves_what_was_there(artifact: Path, model: Path) -> None:
    before = (artifact / manifest.MANIFEST).read_bytes()
    with pytest.raises(InputError, match="CPU compiles nothing"):
        api.optimize(model, artifact=Plan(artifact, "ep-context"))
    with pytest.raises(InputError, match="did you mean 'ort'"):
        api.optimize(model, artifact=Plan(artifact, "orf"))
    assert (artifact / manifest.MANIFEST).read_bytes() == before
    assert {path.name for path in artifact.parent.iterdir()} == {"artifact", "m.onnx"}


def test_a_changed_file_is_refused(artifact: Path) -> None:
    file = artifact / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"was changed.*model.onnx has other contents"):
        burnish.load_artifact(artifact)
    file.write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"model.onnx has \d+ bytes instead of \d+; copy it again"):
        burnish.load_artifact(artifact)
    file.unlink()
    with pytest.raises(InputError, match=r"model.onnx is missing"):
        burnish.load_artifact(artifact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format version 2; this burnish reads 1; update burnish"),
        ({"format": 0}, "has format version 0; this burnish reads 1; build the artefact again"),
        ({"kind": "onx"}, "unknown kind of artefact 'onx'; did you mean 'onnx'"),
        ({"files": {"../m.onnx": {"sha256": "", "bytes": 1}}}, "lies outside the artefact"),
        ({"entry": "other.onnx"}, "is not one of its files"),
        ({"inputs": 7}, "is not a manifest"),
        ({"session": {"thread": 1}}, "unknown setting"),
    ],
)
def test_a_manifest_that_cannot_be_read(
    changes: dict[str, Any], message: str, artifact: Path
) -> None:
    edit(artifact, **changes)
    with pytest.raises(InputError, match=message):
        burnish.load_artifact(artifact)


def test_what_is_no_artifact(model: Path, tmp_path: Path) -> None:
    for path in (model, tmp_path, tmp_path / "no"):
        with pytest.raises(InputError, match=r"is no artefact: it has no manifest.json"):
            burnish.load_artifact(path)
    (tmp_path / manifest.MANIFEST).write_text("{")
    with pytest.raises(InputError, match="is not a manifest"):
        burnish.load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "input 'x' is missing; inputs: x, mask"),
        ({"z": np.ones(1)}, "input 'z' is not one"),
        ({"x": np.ones((2, 3, 8))}, "input 'x' is DOUBLE; the artefact takes FLOAT"),
        ({"x": np.ones((2, 8), np.float32)}, r"shape \[2, 8\]; the artefact takes \[N, T, 8\]"),
        ({"x": np.ones((2, 3, 9), np.float32)}, r"shape \[2, 3, 9\]; the artefact takes"),
    ],
)
def test_feeds_that_do_not_fit(changes: dict[str, Any], message: str, artifact: Path) -> None:
    feeds = {k: v for k, v in {**some_feeds(), **changes}.items() if v is not None}
    with burnish.load_artifact(artifact) as loaded, pytest.raises(InputError, match=message):
        loaded.run(feeds)


def test_an_optimized_model_is_bound_to_what_optimized_it(model: Path, tmp_path: Path) -> None:
    api.optimize(model, artifact=Plan(tmp_path / "a", "ort"))
    edit(tmp_path / "a", requires={"onnxruntime": "0.1.0", "isa": []})
    with pytest.raises(
        UnavailableError, match=r"made by onnxruntime 0.1.0; this is .* pip install"
    ):
        burnish.load_artifact(tmp_path / "a")
    edit(
        tmp_path / "a",
        requires={"onnxruntime": onnxruntime.__version__, "isa": ["vector-unit-of-2099"]},
    )
    with pytest.raises(UnavailableError, match="processors with vector-unit-of-2099"):
        burnish.load_artifact(tmp_path / "a")


def test_a_provider_that_is_not_there(model: Path, tmp_path: Path) -> None:
    # Writing one for a machine with a GPU takes no GPU; running it does.
    plan = Plan(tmp_path / "a", settings=SessionSettings(providers=(Cuda(prefer_nhwc=True),)))
    api.optimize(model, artifact=plan)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UnavailableError, match=r"has no CUDAExecutionProvider; .*pip install"):
            burnish.load_artifact(tmp_path / "a")


def test_settings_are_recorded_and_can_be_changed(model: Path, tmp_path: Path) -> None:
    settings = SessionSettings(threads=2, arena=False, blocked_layout=False, spinning=False)
    api.optimize(model, artifact=Plan(tmp_path / "a", settings=settings))
    with burnish.load_artifact(tmp_path / "a") as loaded:
        assert SessionSettings.of(loaded.manifest.session) == settings
        loaded.run(some_feeds())
    with burnish.load_artifact(tmp_path / "a", threads=1) as loaded:
        loaded.run(some_feeds())
    with pytest.raises(InputError, match="unknown setting"):
        burnish.load_artifact(tmp_path / "a", speed=11)


@pytest.mark.parametrize("kind", ["onnx", "onnx-optimized"])
def test_external_weights_come_along(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = large(rng)
    ir.external_data.unload_from_model(made, tmp_path, "weights", size_threshold_bytes=1024)
    save(made, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").exists()
    api.optimize(tmp_path / "big.onnx", artifact=Plan(tmp_path / "a", kind))
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"manifest.json", "model.onnx", "model.onnx.data"}
    moved = (tmp_path / "a").rename(tmp_path / "elsewhere")
    feeds = {"x": rng.standard_normal((2, 64)).astype(np.float32)}
    with session(tmp_path / "big.onnx") as original, burnish.load_artifact(moved) as loaded:
        assert numeric.compare_outputs(original.run(feeds), loaded.run(feeds)).ok
    (moved / "model.onnx.data").write_bytes(b"")
    with pytest.raises(InputError, match=r"model.onnx.data has 0 bytes"):
        burnish.load_artifact(moved)


def large(rng: np.random.Generator) -> ir.Model:
    return parse(
        "g (float[N,64] x) => (float[N,64] y) { h = MatMul(x, w)  y = Relu(h) }",
        w=rng.standard_normal((64, 64)).astype(np.float32),
    )


@pytest.mark.slow
def test_over_2_gb(tmp_path: Path) -> None:
    wide = 16_400
    made = parse(
        "g (float[N,16400] x) => (float[N,16400] y) { h = MatMul(x, w)  y = MatMul(h, v) }"
    )
    for name in ("w", "v"):
        path = tmp_path / f"{name}.bin"
        np.memmap(path, np.float32, "w+", shape=(wide, wide))[0, :] = 1.0
        (value,) = (
            i for node in made.graph for i in node.inputs if i is not None and i.name == name
        )
        value.const_value = ir.ExternalTensor(
            path.name, 0, path.stat().st_size, ir.DataType.FLOAT, shape=ir.Shape((wide, wide)),
            name=name, base_dir=tmp_path,
        )  # fmt: skip
        value.shape, value.dtype = ir.Shape((wide, wide)), ir.DataType.FLOAT
        made.graph.register_initializer(value)
    save(made, tmp_path / "big.onnx")
    for name in ("w", "v"):
        (tmp_path / f"{name}.bin").unlink()
    api.optimize(tmp_path / "big.onnx", "dead-code", artifact=tmp_path / "a", verify="off")
    size = sum(file.bytes for file in manifest.read(tmp_path / "a").files.values())
    assert size > 2 * 2**30
    x = np.zeros((1, wide), np.float32)
    x[0, 0] = 3.0
    with burnish.load_artifact(tmp_path / "a") as loaded:
        np.testing.assert_allclose(loaded.run({"x": x})["y"], np.full((1, wide), 3.0), rtol=1e-6)
    plan = Plan(tmp_path / "b", "ort")
    with pytest.raises(InputError, match=r"ORT format ends at 2 GB; .* choose --kind onnx"):
        api.optimize(tmp_path / "big.onnx", "dead-code", artifact=plan, verify="off")
