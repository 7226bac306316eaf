# SPDX-License-Identifier: Apache-2.0
"""verify_artifact: digests, and numbers against the source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish import api
from burnish.backends.artifact import manifest, measured
from burnish.backends.artifact.check import verify_artifact
from burnish.backends.artifact.folder import Plan
from burnish.backends.providers import Cuda
from burnish.backends.settings import SessionSettings
from burnish.errors import InputError, VerificationError


def forge(artifact: Path) -> None:
    """Change a weight, and the digest with it, as a wrong build would."""
    path = artifact / "model.onnx"
    model = onnx.load(path)
    (weight,) = (w for w in model.graph.initializer if w.dims == [8, 8])
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0] *= 1.5
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    path.write_bytes(model.SerializeToString())
    data = json.loads((artifact / manifest.MANIFEST).read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    data["files"]["model.onnx"] = {"sha256": digest, "bytes": path.stat().st_size}
    (artifact / manifest.MANIFEST).write_text(json.dumps(data))


def test_digests_and_numbers(artifact: Path, model: Path) -> None:
    found = verify_artifact(artifact)
    assert (found.files, found.error, found.skipped) == (1, None, "no --source was given")
    found = verify_artifact(artifact, model)
    assert found.samples == 1
    assert found.error is not None
    assert found.error < 1e-6


def test_another_source(artifact: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    proto = onnx.load(model)
    proto.doc_string = "not the same file"
    other.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"other.onnx is not the model .* made from \(m.onnx\)"):
        verify_artifact(artifact, other)


def test_other_numbers(artifact: Path, model: Path) -> None:
    forge(artifact)
    with pytest.raises(VerificationError, match=r"computes something else than m.onnx"):
        verify_artifact(artifact, model)
    with pytest.raises(VerificationError, match=r"differ by .* from m.onnx; 0.01 is allowed"):
        verify_artifact(artifact, model, max_error=0.01)
    found = verify_artifact(artifact, model, max_error=1.0)
    assert found.error is not None
    assert 0.01 < found.error < 1.0


def test_a_lossy_artifact_is_held_to_its_budget(model: Path, tmp_path: Path) -> None:
    api.optimize(model, "prune{sparsity=0.5 min_size=1}", artifact=tmp_path / "a", max_error=0.9)
    found = verify_artifact(tmp_path / "a", model)
    assert found.error is not None
    assert found.error > 0.01
    assert found.manifest.lossless is False
    with pytest.raises(VerificationError, match="is allowed"):
        verify_artifact(tmp_path / "a", model, max_error=0.001)


def test_files_that_the_manifest_does_not_name(artifact: Path) -> None:
    (artifact / "extra.bin").write_bytes(b"?")
    with pytest.raises(InputError, match=r"does not name: extra.bin; remove it"):
        verify_artifact(artifact)


def test_without_the_hardware_digests_are_checked(model: Path, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    plan = Plan(tmp_path / "a", settings=SessionSettings(providers=(Cuda(),)))
    api.optimize(model, artifact=plan)
    found = verify_artifact(tmp_path / "a", model)
    assert found.files == 1
    assert found.skipped is not None
    assert "has no CUDAExecutionProvider" in found.skipped


def test_samples(artifact: Path, model: Path) -> None:
    rng = np.random.default_rng(1)
    samples = [
        {
            "x": rng.standard_normal((1, tokens, 8)).astype(np.float32),
            "mask": np.ones((1, tokens, 1), np.float32),
        }
        for tokens in (2, 5)
    ]
    assert verify_artifact(artifact, model, samples=samples).samples == 2
    with pytest.raises(InputError, match="no samples"):
        verify_artifact(artifact, model, samples=[])


def test_figures_stand_beside_the_manifest(artifact: Path, model: Path) -> None:
    measured.record(artifact, "bench", {"median": 0.1})
    measured.record(artifact, "bench", {"median": 0.2})
    found = measured.entries(artifact)
    assert [entry["figures"]["median"] for entry in found] == [0.1, 0.2]
    assert found[0]["hardware"]["cores"] >= 1
    assert verify_artifact(artifact).files == 1  # they are no part of what was built
    api.optimize(model, "cleanup", artifact=artifact)
    measured.record(artifact, "bench", {"median": 0.3})
    assert len(measured.entries(artifact)) == 1  # figures of another build are not this one's
    (artifact / manifest.MEASURED).write_text("[]")
    with pytest.raises(InputError, match="is malformed"):
        measured.entries(artifact)
