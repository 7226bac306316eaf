# SPDX-License-Identifier: Apache-2.0
"""A bundle that lets somebody else see an internal error happen again."""

from __future__ import annotations

import json
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from burnish.files import write_aside
from burnish.passes.instrument import Event, Instrument

# Weights above this many bytes are left out of the bundle: structure nearly always suffices.
_MAX_WEIGHT_BYTES = 1 << 20


@dataclass
class FailureWatch(Instrument):
    """Remembers which pass and rewrite was running when an exception was raised."""

    event: Event | None = None
    model: ir.Model | None = None

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        """Keep the innermost event."""
        if self.event is None:
            self.event, self.model = event, model


def write_bundle(
    path: Path,
    error: BaseException,
    watch: FailureWatch,
    *,
    command: str,
    versions: dict[str, str],
) -> Path:
    """Write a zip with the command, versions, traceback, and the model at the time of the failure.

    The model is in text form, large weights left out.
    """
    about = {
        "command": command,
        "versions": versions,
        "failed_in": None if watch.event is None else vars(watch.event),
        "error": f"{type(error).__name__}: {error}",
    }
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("about.json", json.dumps(about, indent=2))
        bundle.writestr("traceback.txt", "".join(traceback.format_exception(error)))
        if watch.model is not None:
            bundle.writestr("model.txt", _text(watch.model))
    return path


def _text(model: ir.Model) -> str:
    small = model.clone()
    for graph in (small.graph, *small.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _MAX_WEIGHT_BYTES:
                value.const_value = None
    return str(small)
