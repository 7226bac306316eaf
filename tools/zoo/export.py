# SPDX-License-Identifier: Apache-2.0
"""Turn models that come as weights into ONNX, once for each set of versions that matters."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from burnish.files import write_aside
from burnish.tools.zoo.entry import Entry, Export
from burnish.tools.zoo.fetch import cache_folder, make_folder

_EXPORTERS = ("torch", "onnxscript", "onnx-ir", "transformers")
"""Packages whose version can change what an export looks like."""

_MACHINE_SPECIFIC = "pkg.torch.onnx.stack_trace"
"""Metadata that holds paths, so that the same model would be other bytes elsewhere."""


def exported(entry: Entry, export: Export, files: Mapping[str, Path]) -> Path:
    """Give the ONNX file of an entry, exporting it unless the cache has it.

    Args:
        entry: The entry.
        export: Its way of exporting.
        files: Its files by name.

    Raises:
        MissingExtraError: a package needed to export is not installed.
        VerificationError: the exported model computes something else than its module.
    """
    folder = cache_folder() / "export"
    path = folder / f"{entry.name}-{_digest(entry, export)}.onnx"
    if not path.is_file():
        make_folder(folder)
        _export(export, files, path)
    return path


def _export(export: Export, files: Mapping[str, Path], path: Path) -> None:
    import onnx_ir as ir

    from burnish.frontends import pytorch

    example = pkgutil.resolve_name(export.example)(files)
    loaded = pytorch.export(
        example, exporter=export.exporter, opset=export.opset, where=export.example
    )
    for node in loaded.model.graph.all_nodes():
        node.metadata_props.pop(_MACHINE_SPECIFIC, None)
    with write_aside(path) as aside:  # all that the exporter says; `save` leaves some of it out
        aside.write_bytes(ir.to_proto(loaded.model).SerializeToString(deterministic=True))


def _digest(entry: Entry, export: Export) -> str:
    """Of all that the export depends on: the package, how it is exported, and with what."""
    module = inspect.getmodule(pkgutil.resolve_name(export.example))
    assert module is not None
    facts = {
        "packages": [asdict(package) for package in entry.packages],
        "export": asdict(export),
        "source": inspect.getsource(module),
        "versions": {name: _version(name) for name in _EXPORTERS},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
