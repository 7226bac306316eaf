# SPDX-License-Identifier: Apache-2.0
"""External data: where the weights outside the model file lie, and whether they are all there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir


def attach(model: ir.Model, folder: Path, where: str) -> tuple[Path, ...]:
    """Point the external tensors of a model at its folder, and check their files.

    Only looks at sizes; the data is mapped when a tensor is first read.

    Args:
        model: The tensors are edited in place.
        folder: The folder of the model's file.
        where: What to call the model in an error.

    Returns:
        The data files, each once, in the order of their names.

    Raises:
        InputError: a file is missing, too short, or lies outside the folder.
    """
    sizes: dict[str, int] = {}
    for tensor in _external_tensors(model):
        tensor.base_dir = folder
        location = os.fspath(tensor.location)
        if location not in sizes:
            sizes[location] = _size(folder, location, f"{where}: external data {location!r}")
        length = tensor.nbytes if tensor.length is None else tensor.length
        end = (tensor.offset or 0) + length
        if length != tensor.nbytes:
            raise InputError(
                f"{where}: tensor {tensor.name!r} takes {tensor.nbytes} bytes, but is said to "
                f"have {length} in {location!r}",
                hint="the file is damaged or badly made; export it again",
            )
        if end > sizes[location]:
            raise InputError(
                f"{where}: external data {location!r} is too short: tensor {tensor.name!r} ends "
                f"at byte {end}, the file at {sizes[location]}",
                hint="copy or download the file again",
            )
    return tuple(folder / location for location in sorted(sizes))


def _size(folder: Path, location: str, what: str) -> int:
    """The size in bytes of a data file, once it is safe to read.

    Containment and hard links are what onnx-ir itself refuses, but only at the first read.
    """
    path = folder / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise InputError(
            f"{what} lies outside the model's folder {folder}",
            hint="move the file into the folder and name it there",
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{what} is a link out of the model's folder to {path.resolve()}",
            hint="replace the link by a copy of the file",
        )
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
            f"{what} in {folder} has {stat.st_nlink} hard links, and may be another file in "
            "disguise",
            hint="replace it by a copy of the file",
        )
    return stat.st_size


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    import onnx_ir as ir

    def of(tensor: object) -> Iterator[ir.ExternalTensor]:
        if isinstance(tensor, ir.ExternalTensor):
            yield tensor

    for graph in model.graphs():
        for value in graph.initializers.values():
            yield from of(value.const_value)
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node in body.all_nodes():
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield from of(attribute.value)
                elif attribute.type == ir.AttributeType.TENSORS:
                    for tensor in attribute.as_tensors():
                        yield from of(tensor)
