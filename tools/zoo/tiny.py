# SPDX-License-Identifier: Apache-2.0
"""Tiny models of random weights, exported to ONNX once and kept in the cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import require

if TYPE_CHECKING:
    from burnish.frontends.pytorch import Example, Exporter

_PARTS = ("torch", "onnxscript", "onnx-ir", "transformers")


def exported(
    name: str,
    build: Callable[[], Example],
    exporter: Exporter,
    *,
    opset: int | None = None,
    sources: Sequence[str],
) -> Path:
    """Give the ONNX file of a model, exporting it unless the cache has it.

    Args:
        name: What the file is called.
        build: Makes the module with its inputs; deterministic.
        exporter: Which of torch's exporters to use.
        opset: For which operator set; by default the exporter's choice.
        sources: Files that `build` is written in: if one changes, the model is exported again.

    Raises:
        InputError: it cannot be exported.
        MissingExtraError: torch or transformers is not installed.
    """
    from burnish.tools.zoo.fetch import cache_folder, make_folder

    require("transformers", extra="zoo-export")
    facts = [opset, *(importlib.metadata.version(package) for package in _PARTS)]
    text = json.dumps(facts) + "".join(Path(file).read_text() for file in sources)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = cache_folder() / "tiny"
    path = folder / f"{name}-{exporter}-{digest}.onnx"
    if not path.is_file():
        make_folder(folder)
        _export(name, build, exporter, opset, path)
    return path


def _export(
    name: str, build: Callable[[], Example], exporter: Exporter, opset: int | None, path: Path
) -> None:
    from burnish.backends import onnxfile
    from burnish.frontends import pytorch

    with _quiet():
        loaded = pytorch.export(build(), exporter=exporter, opset=opset, where=name)
    for node in loaded.model.graph.all_nodes():
        # It holds paths, so that the same model would be other bytes elsewhere.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    onnxfile.save(loaded.model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks on what else could be installed from the user."""
    import logging

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
