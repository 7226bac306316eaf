# SPDX-License-Identifier: Apache-2.0
"""Kind `ep-context`: an ONNX model whose subgraphs an execution provider has compiled.

Providers that compile (TensorRT, TensorRT for RTX, and others of that kind) put the engine into a
node `EPContext`, or into a file beside it, and load it without compiling again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from burnish.backends.artifact.kinds import Built, Request
from burnish.backends.artifact.manifest import Manifest
from burnish.backends.base import Session
from burnish.backends.settings import SessionSettings
from burnish.errors import InputError

_ENTRY = "model.onnx"


def build(request: Request) -> Built:
    """Compile with the first of the settings' providers."""
    import onnxruntime

    from burnish.backends.artifact import onnx
    from burnish.backends.onnxruntime import explain

    provider = request.settings.providers[0]
    if provider.kind == "cpu":
        raise InputError(
            "the CPU compiles nothing that could be kept as a context",
            hint="name a provider that does, such as --provider tensorrt, or choose --kind onnx",
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    attached = provider.attach(options)
    if attached is not None:
        options.add_provider(*attached)
    with tempfile.TemporaryDirectory(dir=request.folder) as aside:
        plain = Path(aside) / onnx.ENTRY
        onnx.build(Request("onnx", request.model, request.target, plain.parent, request.settings))
        try:
            compiler = onnxruntime.ModelCompiler(
                options, plain, external_initializers_file_path=f"{_ENTRY}.data"
            )
            compiler.compile_to_file(str(request.folder / _ENTRY))
        except Exception as error:  # the runtime's exceptions share no base class
            raise InputError(f"{provider.name} does not compile it: {explain(error)}") from error
    return Built(
        _ENTRY,
        session=request.settings.as_dict(),
        requires={"onnxruntime": onnxruntime.__version__, "provider": provider.name},
        warnings=(
            f"an artefact of kind ep-context is bound to {provider.name} of onnxruntime "
            f"{onnxruntime.__version__} and to this kind of GPU; onnx is not",
        ),
    )


def load(folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:
    """Load it with the provider that compiled it."""
    return settings.session(folder / manifest.entry)
