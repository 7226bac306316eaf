# SPDX-License-Identifier: Apache-2.0
"""Kind `onnx`: the model as it is. It runs wherever ONNX Runtime does, which optimizes as it loads.

So nothing in it is bound to a machine, unless its settings name a provider that some lack.
"""

from __future__ import annotations

from pathlib import Path

from burnish.backends.artifact.kinds import Built, Request
from burnish.backends.artifact.manifest import Manifest
from burnish.backends.base import Session
from burnish.backends.settings import SessionSettings

ENTRY = "model.onnx"


def build(request: Request) -> Built:
    """Save the model."""
    from burnish.backends.onnxruntime import OnnxRuntime

    OnnxRuntime().lower(request.model, request.target, request.folder / ENTRY)
    return Built(ENTRY, session=request.settings.as_dict())


def load(folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:
    """Load it under `settings`."""
    return settings.session(folder / manifest.entry)
