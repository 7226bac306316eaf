# SPDX-License-Identifier: Apache-2.0
"""External data: where the weights outside the model file lie, and whether they are all there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.backends.onnxfile import in_file
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

_COPY = "replace it by a copy of the file"


def attach(model: ir.Model, file: Path | None, where: str) -> tuple[Path, ...]:
    """Point the external tensors of a model at their files, and check these.

    Only looks at sizes; the data is mapped when a tensor is first read.

    Args:
        model: The tensors are edited in place.
        file: The model's file, or None for the current folder.
        where: What to call the model in an error.

    Returns:
        The data files, each once, in the order of their names in the model.

    Raises:
        InputError: a file is missing, too short, or lies outside the model's folder.
    """
    found: dict[str, Path] = {}
    for value, tensor in _external_tensors(model):
        location = os.fspath(tensor.location)
        if location not in found:
            found[location] = _find(location, file, f"{where}: external data {location!r}")
        path = found[location]
        parts = Path(location).parts
        if path.parts[-len(parts) :] == parts:
            # path = base_dir / location, and base_dir is what onnx-ir confines reads to.
            tensor.base_dir = path.parents[len(parts) - 1]
        elif value is not None:
            value.const_value = in_file(tensor, path)
        else:
            raise InputError(f"{where}: external data {location!r} is a link", hint=_COPY)
        length = tensor.nbytes if tensor.length is None else tensor.length
        end = (tensor.offset or 0) + length
        if length != tensor.nbytes or end < length:
            raise InputError(
                f"{where}: tensor {tensor.name!r} takes {tensor.nbytes} bytes, but is said to "
                f"have {length} from {tensor.offset or 0} in {location!r}",
                hint="the file is damaged or badly made; export it again",
            )
        if end > (size := path.stat().st_size):
            raise InputError(
                f"{where}: external data {location!r} is too short: tensor {tensor.name!r} ends "
                f"at byte {end}, the file at {size}",
                hint="copy or download the file again",
            )
    return tuple(found[location] for location in sorted(found))


def _find(location: str, file: Path | None, what: str) -> Path:
    """The data file, once it is safe to read.

    Containment and hard links are what onnx-ir itself refuses, but only at the first read.
    Download caches keep a folder of links into a store: if the model's file is such a link, its
    data may be one into the same folder of the store.
    """
    folder = Path.cwd() if file is None else file.parent.absolute()
    path = folder / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise InputError(
            f"{what} lies outside the model's folder {folder}",
            hint="move the file into the folder and name it there",
        )
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        if file is None or real.parent != file.resolve().parent:
            raise InputError(f"{what} is a link out of the model's folder to {real}", hint=_COPY)
        path = real
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(
            f"{what} is missing from {folder}: {error.strerror}",
            hint="put the file beside the model",
        ) from error
    if not path.is_file():
        raise InputError(f"{what} in {folder} is not a file", hint="put the file beside the model")
    if stat.st_nlink > 1:
        raise InputError(
            f"{what} in {folder} has {stat.st_nlink} hard links: it may be a file from elsewhere",
            hint=_COPY,
        )
    return path


def _external_tensors(model: ir.Model) -> Iterator[tuple[ir.Value | None, ir.ExternalTensor]]:
    """The external tensors, those of initializers with their values."""
    import onnx_ir as ir

    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node in body.all_nodes():
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    tensors = [attribute.value]
                elif attribute.type == ir.AttributeType.TENSORS:
                    tensors = list(attribute.as_tensors())
                else:
                    continue
                for tensor in tensors:
                    if isinstance(tensor, ir.ExternalTensor):
                        yield None, tensor
