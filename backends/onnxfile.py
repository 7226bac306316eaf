# SPDX-License-Identifier: Apache-2.0
"""Write a model as an ONNX file, with its weights beside it when they do not fit or came that way.

Memory does not grow with the weights: those that lie in a file are copied from file to file.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from burnish.backends import weights, wire
from burnish.backends.sparse import marked, sparsify
from burnish.errors import BurnishError, InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    _Plain = ir.Tensor[Any] | ir.LazyTensor | ir.PackedTensor[Any] | ir.serde.TensorProtoTensor

INLINE_LIMIT = 2**31 - 2**26
"""Bytes of weights above which they go to a file of their own. Protobuf ends at 2**31; the graph
itself is given 64 MiB of that."""

_PROTOBUF_LIMIT = 2**31 - 1

PAGE = 4096
"""External tensors larger than a page start on one, so that a runtime can map them as they are;
smaller ones stay in the model file, where shape inference finds them."""


def save(model: ir.Model, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write `model` to `path`, and its weights to `path` + ``.data`` if they are external.

    They are external if any of them was, or if they do not fit in one file of 2 GB. Everything is
    written aside and then renamed, the data first. The same model gives the same bytes.

    Where both files are replaced, the model at `path` finds its own weights at any moment, the old
    or the new: a process killed between two renames leaves at most a file too many.

    The data file may be one that `model` itself reads its weights from: those then refer to the
    new file. Other models that read from it have to be loaded again.

    Returns:
        The files written.

    Raises:
        InputError: the folder does not exist or cannot be written.
        BurnishError: writing failed, for instance for want of space. Nothing was replaced, unless
            it was a rename that failed.
    """
    path = Path(path)
    data = path.with_name(f"{path.name}.data") if is_external(model) else None
    try:
        # A folder, so that both files have their final names: the one names the other.
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to folder {path.parent}: {error.strerror}",
            hint="choose another output with -o",
        ) from error
    try:
        with _weights_moved(model, aside, data):
            _write(model, aside / path.name, path)
            # The data file is empty when every weight turned out small.
            written = [f for f in (data, path) if f and (aside / f.name).stat().st_size]
            replaced = len(written) == 2 and all(file.exists() for file in written)
            with _bridge(model, aside, path) if replaced else nullcontext():
                for file in written:
                    (aside / file.name).replace(file)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise BurnishError(f"cannot write {path}: {error.strerror}{where}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return tuple(written)


@contextmanager
def _bridge(model: ir.Model, aside: Path, path: Path) -> Iterator[None]:
    """Within the context, the model at `path` is the new one, with data under a name of their own.

    No rename replaces two files at once. Behind this one, the old data are nobody's, and can be
    replaced; then the model that refers to the new ones by their final name replaces this one.
    An error within leaves it in place.

    The data are copied for it: readers refuse a file that has two names by a hard link.

    Args:
        model: Refers to its data in `aside`.
        aside: Holds the new files under their final names.
        path: The model file that is replaced.
    """
    import onnx_ir as ir

    data, between = aside / f"{path.name}.data", aside / "between"
    held = path.with_name(f"{aside.name[1:]}.data")
    moved = (
        (value, in_file(tensor, held))
        for _, value, tensor in weights.initialized(model)
        if isinstance(tensor, ir.ExternalTensor)
    )
    with weights.tensors_replaced(moved):
        _write(model, between, path)
    try:
        shutil.copyfile(data, held)
        between.replace(path)
    except BaseException:
        held.unlink(missing_ok=True)
        raise
    yield
    held.unlink()


def in_file(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    """Return the same tensor, at the same place of another file."""
    import onnx_ir as ir

    return ir.ExternalTensor(
        path.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=tensor.metadata_props,
        base_dir=path.parent,
    )


def _write(model: ir.Model, file: Path, path: Path) -> None:
    """Write what is to be `path` to `file`; weights go there one by one, as they are."""
    import onnx_ir as ir

    sparse = marked(model)
    streamed = {
        name: tensor
        for name, value in model.graph.initializers.items()
        if (tensor := value.const_value) is not None and name not in sparse and _is_plain(tensor)
    }
    hollow = [(model.graph.initializers[name], _hollow(streamed[name])) for name in streamed]
    try:
        with weights.attributes_in_memory(model), weights.tensors_replaced(hollow):
            proto = ir.to_proto(model)
        _say_once(proto.graph)
        sparsify(proto, sparse)
        sizes = {name: tensor.nbytes for name, tensor in streamed.items()}
        parts, total = wire.pieces(proto.SerializeToString(deterministic=True), sizes)
        if total > _PROTOBUF_LIMIT:
            raise ValueError("protobuf cannot read it again")
    except ValueError as error:
        raise BurnishError(
            f"cannot write {path}: it holds over 2 GB outside its initializers",
            hint="turn Constant nodes into initializers",
        ) from error
    with file.open("wb") as stream:
        for part in parts:
            if isinstance(part, str):
                data = _raw_data(streamed[part])
                assert len(data) == sizes[part], (
                    f"the data of {part!r} are not of the size declared"
                )
                stream.write(data)
            else:
                stream.write(part)


def _say_once(graph: onnx.GraphProto) -> None:
    """Leave out the types and sizes of initializers where they say no more than these do."""
    held = {tensor.name for tensor in graph.initializer}
    kept = [
        info
        for info in graph.value_info
        if info.name not in held or info.doc_string or info.metadata_props
    ]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _is_plain(tensor: ir.TensorProtocol) -> TypeGuard[_Plain]:
    """Whether a tensor is large, and would be stored as its raw data and nothing unusual."""
    import onnx_ir as ir

    known = ir.Tensor, ir.LazyTensor, ir.PackedTensor, ir.serde.TensorProtoTensor
    if not isinstance(tensor, known) or tensor.dtype is ir.DataType.STRING or not tensor.name:
        return False
    if tensor.nbytes <= PAGE or tensor.doc_string or tensor.metadata_props:
        return False
    if isinstance(tensor, ir.serde.TensorProtoTensor):  # which is stored as it came
        raw = tensor.raw
        odd = raw.HasField("segment") or raw.HasField("data_location")
        return raw.HasField("raw_data") and not odd
    return True


def _raw_data(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """The bytes of a tensor as ONNX stores them, without a copy where there is an array of them."""
    import numpy as np

    if tensor.dtype.bitwidth < 8 or sys.byteorder != "little":
        return tensor.tobytes()
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


def _hollow(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same tensor without its data."""
    import numpy as np
    import onnx_ir as ir

    nothing = ir.tensor(np.zeros(0, np.uint8))
    return ir.LazyTensor(
        lambda: nothing, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name
    )


@contextmanager
def _weights_moved(model: ir.Model, aside: Path, data: Path | None) -> Iterator[None]:
    """Within the context, `model` refers to a new data file in `aside`, to be renamed to `data`.

    Afterwards its weights are the tensors they were, but for those that lay in the file which has
    been replaced: their offsets are wrong in the new one.
    """
    if data is None:
        yield
        return
    import onnx_ir as ir

    before = [(value, tensor) for _, value, tensor in weights.initialized(model)]
    stale = {id(value) for value, tensor in before if _lies_in(tensor, data)}
    constants = [item for item in weights.external_attributes(model) if _lies_in(item[2], data)]
    renamed = False
    try:
        for node, attribute, constant in constants:  # few, and no file takes them over
            copy = ir.tensor(constant.numpy().copy(), dtype=constant.dtype, name=constant.name)
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, copy)
        ir.external_data.unload_from_model(
            model,
            aside,
            data.name,
            size_threshold_bytes=PAGE,
            alignment=PAGE,
            align_threshold=PAGE,
        )
        yield
        renamed = True
    finally:
        for value, tensor in before:
            if not renamed or id(value) not in stale:
                value.const_value = tensor
            elif isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.base_dir = data.parent
        for node, attribute, _ in constants if not renamed else ():
            node.attributes[attribute.name] = attribute


def _lies_in(tensor: ir.TensorProtocol, data: Path) -> bool:
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return False
    return os.path.realpath(tensor.path) == os.path.realpath(data)


def is_external(model: ir.Model) -> bool:
    """Whether `save` puts weights into a file of their own."""
    import onnx_ir as ir

    size = 0
    for _, _, tensor in weights.initialized(model):
        if isinstance(tensor, ir.ExternalTensor):
            return True
        size += tensor.nbytes
    return size > INLINE_LIMIT
