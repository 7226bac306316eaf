# SPDX-License-Identifier: Apache-2.0
"""Digests of sources: SHA-256, in hex, streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_CHUNK = 1 << 20


def of_bytes(head: bytes | memoryview, files: Iterable[Path]) -> str:
    """The digest of some bytes followed by the contents of some files."""
    digest = hashlib.sha256(head)
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def of_model(model: ir.Model) -> str:
    """The digest of a model in memory: of its parts, one at a time, never of all weights at once.

    Equal models have equal digests; that of a model is not that of the file it came from.
    """
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(model: ir.Model) -> Iterator[bytes]:
    import onnx_ir as ir

    yield repr((model.ir_version, model.opset_imports, model.metadata_props)).encode()
    for value in (*model.graph.inputs, *model.graph.outputs):
        yield ir.serde.serialize_value(value).SerializeToString(deterministic=True)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        yield repr((value.name, tensor.dtype, tensor.shape)).encode()
        if tensor.dtype == ir.DataType.STRING:
            yield b"\0".join(tensor.numpy().ravel().tolist())
        else:
            yield tensor.tobytes()
    for node in model.graph:
        yield ir.serde.serialize_node(node).SerializeToString(deterministic=True)
    for function in model.functions.values():
        yield ir.serde.serialize_function(function).SerializeToString(deterministic=True)
