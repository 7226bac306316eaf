# SPDX-License-Identifier: Apache-2.0
"""Kinds `onnx-optimized` and `ort`: the graph that ONNX Runtime made of the model, in either form.

They load sooner, since nothing is left to optimize. They are bound to the hardware: the runtime has
chosen layouts and kernels for the processor's instructions, and writes operators that only this
version of it is sure to know. Nor are they the same bytes twice: the order in which the runtime
writes nodes, and names those it adds, differs from run to run.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.artifact.kinds import Built, Request
from burnish.backends.artifact.manifest import Manifest
from burnish.backends.base import Session
from burnish.backends.settings import SessionSettings
from burnish.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import onnxruntime

_ENTRIES = {"onnx-optimized": "model.onnx", "ort": "model.ort"}
_FLATBUFFER_LIMIT = 2**31 - 2**26  # bytes of weights; the graph is given 64 MiB


def build(request: Request) -> Built:
    """Let the runtime write the model that it executes."""
    import onnxruntime

    from burnish.backends.isa import detect_isa
    from burnish.backends.onnxfile import is_external
    from burnish.passes.report import ModelStats

    entry = _ENTRIES[request.kind]
    size = ModelStats.of(request.model).bytes
    if request.kind == "ort" and size > _FLATBUFFER_LIMIT:
        raise InputError(
            f"the ORT format ends at 2 GB; the model has {size / 1e9:.1f} GB of weights",
            hint="choose --kind onnx",
        )
    external = is_external(request.model)
    with tempfile.TemporaryDirectory(dir=request.folder) as aside:
        from burnish.backends.artifact import onnx

        source = Path(aside) / onnx.ENTRY
        onnx.build(dataclasses.replace(request, kind="onnx", folder=Path(aside)))

        def configure(options: onnxruntime.SessionOptions) -> None:
            request.settings.configure(options)
            options.optimized_model_filepath = str(request.folder / entry)
            if request.kind == "ort":
                options.add_session_config_entry("session.save_model_format", "ORT")
            elif external:
                # The same limit as for our own files, from where on runtimes can map them.
                for key, value in (("file_name", f"{entry}.data"), ("min_size_in_bytes", "4096")):
                    options.add_session_config_entry(
                        f"session.optimized_model_external_initializers_{key}", value
                    )

        # Weights rearranged for this processor's kernels would be written beside the plain ones.
        settings = dataclasses.replace(request.settings, prepack=False)
        settings.session(source, configure=configure).close()
    bound = f"onnxruntime {onnxruntime.__version__} and processors with {_words(detect_isa())}"
    return Built(
        entry,
        # There is nothing left to optimize: what the runtime would do again could only undo it.
        session={**request.settings.as_dict(), "optimize": "off"},
        requires={"onnxruntime": onnxruntime.__version__, "isa": sorted(detect_isa())},
        warnings=(f"an artefact of kind {request.kind} is bound to {bound}; onnx is not",),
    )


def load(folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:
    """Load it, where the runtime and the processor are those it was made for."""
    import onnxruntime

    from burnish.backends.isa import detect_isa

    required: dict[str, Any] = dict(manifest.requires)
    if _minor(required["onnxruntime"]) != _minor(onnxruntime.__version__):
        raise UnavailableError(
            f"artefact {folder} was made by onnxruntime {required['onnxruntime']}; this is "
            f"{onnxruntime.__version__}",
            hint=f"pip install onnxruntime=={required['onnxruntime']}, or build it as --kind onnx",
        )
    missing = set(required["isa"]) - detect_isa()
    if missing:
        raise UnavailableError(
            f"artefact {folder} was made for processors with {_words(missing)}; this one has none",
            hint="build it on a machine like this one, or as --kind onnx",
        )
    return settings.session(folder / manifest.entry)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _words(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names)) or "any instructions"
