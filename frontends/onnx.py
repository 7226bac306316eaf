# SPDX-License-Identifier: Apache-2.0
"""The ONNX frontend: files in protobuf or in text, bytes, and models in memory.

Weights are never copied to repair a model: the file is mapped while it is parsed, large weights go
from there into arrays, external data stays on disk until a pass reads it, and the repairs only
touch names, order and shapes.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.backends import wire
from burnish.errors import InputError
from burnish.frontends import Loaded, digest, external
from burnish.frontends.contents import check_contents
from burnish.frontends.repair import repair
from burnish.frontends.scope import resolve_names
from burnish.frontends.sniff import foreign
from burnish.frontends.sparse import densify
from burnish.frontends.stale import forget_stale_sizes

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

_BINARY = (".onnx",)
_TEXT = (".onnxtxt", ".onnxtext", ".txt", ".textproto", ".prototxt", ".pbtxt", ".json")
_HEAD = 4096
_LARGE = 2**20 + 1  # bytes of data that are not parsed; the check of contents leaves them alone
_OF_BYTES = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13)  # types that NumPy has, by number
_PROTOBUF_LIMIT = 2**31 - 1
_REEXPORT = "the file is damaged or badly made; export it again"


def can_load(source: object) -> bool:
    """Is this an ONNX model, by its type, its suffix or, without either, its first bytes?"""
    if isinstance(source, bytes):
        return True
    if isinstance(source, (str, os.PathLike)):
        if isinstance(source, str) and _is_text(source):
            return True
        path = Path(os.fsdecode(source))
        if path.suffix.lower() in (*_BINARY, *_TEXT):
            return True
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
        # An ONNX file starts with field 1, ir_version, a small number.
        return head[:1] == b"\x08" and foreign(head) is None
    return type(source).__module__.partition(".")[0] in ("onnx", "onnx_ir")


def load(source: object) -> Loaded:
    """Read an ONNX model and repair what exporters get wrong.

    Args:
        source: A path, of a protobuf file or by its suffix of a textual one; the bytes of a
            protobuf file; ONNX's textual form, starting with `<`; an `onnx.ModelProto` or an
            `onnx_ir.Model`, neither of which is changed
            (the former is copied with its weights, the latter without).
            External data of a model that is not a file is looked for in the current folder.

    Raises:
        InputError: the source is no ONNX model, is damaged, newer than the installed `onnx`,
            or its external data is missing.
    """
    import onnx
    import onnx_ir as ir

    if isinstance(source, ir.Model):
        return _from_ir(source.clone())
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        return _loaded(proto, None, "model", None)
    if isinstance(source, bytes):
        return _from_binary(source, None, "model")
    if isinstance(source, str) and _is_text(source):
        return _from_text(source.encode(), None, "model")
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(os.fsdecode(source)))
    raise InputError(
        f"an object of type {type(source).__name__} is no model",
        hint="give a path, bytes, onnx.ModelProto or onnx_ir.Model",
    )


def _is_text(source: str) -> bool:
    return source.lstrip().startswith("<") and "{" in source


def _from_file(path: Path) -> Loaded:
    where = os.fspath(path)
    if path.is_dir():
        inside = sorted(path.glob("*.onnx"))
        raise InputError(
            f"{where} is a folder",
            hint=f"did you mean {inside[0]}?" if inside else "give the model file in it",
        )
    try:
        with path.open("rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise InputError(f"{where} is no regular file", hint="write the model to a file")
            if not os.fstat(opened.fileno()).st_size:
                raise InputError(f"{where} is empty", hint="export or download the model again")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if path.suffix.lower() in _TEXT:
                    return _from_text(bytes(mapped), path, where)
                with memoryview(mapped) as content:
                    return _from_binary(content, path, where)
    except FileNotFoundError as error:
        hint = "name a file: models are not read from standard input"
        raise InputError(
            f"{where} does not exist", hint=hint if where == "-" else "check the path"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot read {where}: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _from_binary(content: bytes | memoryview, file: Path | None, where: str) -> Loaded:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    head = bytes(content[:_HEAD])
    if not head:
        raise InputError(f"{where} is empty", hint="export or download the model again")
    _refuse_foreign(head, where)
    if len(content) > _PROTOBUF_LIMIT:
        raise InputError(
            f"{where} has {len(content)} bytes, over the 2 GB protobuf can hold",
            hint="export it again with external data",
        )
    proto, data = onnx.ModelProto(), dict[int, slice]()
    try:
        hollow: bytes | memoryview = content
        with contextlib.suppress(ValueError):
            hollow, data = wire.without_data(memoryview(content), _LARGE)
        proto.ParseFromString(hollow)
    except DecodeError as error:
        if head[:1] == b"\x08":
            raise InputError(
                f"{where} is damaged or cut short: its {len(content)} bytes are no whole ONNX "
                "model",
                hint="export or download it again",
            ) from error
        raise InputError(f"{where} is not an ONNX model", hint="give a .onnx file") from error
    return _loaded(proto, file, where, content, _arrays(proto, content, data))


def _arrays(
    proto: onnx.ModelProto, content: bytes | memoryview, data: Mapping[int, slice]
) -> list[tuple[onnx.TensorProto, np.ndarray]]:
    """Return initializers of which the data are not in the model, with these as arrays.

    Data that do not fit their tensor are put back, for others to say so.

    Args:
        proto: The model.
        content: What it was parsed from.
        data: Where they lie in it, by number of an initializer.
    """
    import numpy as np
    import onnx_ir as ir

    found = []
    for index, place in data.items():
        tensor = proto.graph.initializer[index]
        sizes = tuple(tensor.dims)
        dtype = np.dtype(np.void)
        if tensor.data_type in _OF_BYTES:
            dtype = ir.DataType(tensor.data_type).numpy()
        if min(sizes, default=0) < 0 or math.prod(sizes) * dtype.itemsize != _length(place):
            tensor.raw_data = bytes(content[place])
            continue
        array = np.frombuffer(content[place], dtype).reshape(sizes).copy()
        array.flags.writeable = False
        found.append((tensor, array))
    return found


def _length(place: slice) -> int:
    return int(place.stop - place.start)


def _from_text(content: bytes, file: Path | None, where: str) -> Loaded:
    """Parse ONNX's textual form, protobuf's, or JSON; the first character tells them apart."""
    import onnx
    from google.protobuf import json_format, text_format  # type: ignore[import-untyped]

    _refuse_foreign(content[:_HEAD], where)
    try:
        text = content.decode()
        if text.lstrip().startswith("<"):
            proto = onnx.parser.parse_model(text)
        elif text.lstrip().startswith("{"):
            proto = json_format.Parse(text, onnx.ModelProto())
        else:
            proto = text_format.Parse(text, onnx.ModelProto())
    except Exception as error:  # each of the parsers raises its own
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where} is not an ONNX model in text: {reason[:300]}", hint="correct the text"
        ) from error
    return _loaded(proto, file, where, content)


def _refuse_foreign(head: bytes, where: str) -> None:
    if (found := foreign(head)) is not None:
        kind, remedy = found
        raise InputError(f"{where} is not an ONNX model but {kind}", hint=remedy)


def _from_ir(model: ir.Model) -> Loaded:
    source = digest.of_model(model)
    _check_versions(model.ir_version, model.opset_imports, "model")
    notes = repair(model, "model")
    return Loaded(model, tuple(notes), source)


def _loaded(
    proto: onnx.ModelProto,
    file: Path | None,
    where: str,
    content: bytes | memoryview | None,
    arrays: Sequence[tuple[onnx.TensorProto, np.ndarray]] = (),
) -> Loaded:
    import onnx_ir as ir

    _check(proto, where)
    check_contents(proto, where)
    notes = [*densify(proto, where), *resolve_names(proto, where), *forget_stale_sizes(proto)]
    if proto.training_info:
        notes.append("the training information was left out")
    try:
        model = ir.serde.deserialize_model(proto)
    except ir.serde.SerdeError as error:
        raise InputError(f"{where} cannot be read: {_cause(error)}", hint=_REEXPORT) from error
    _fill(model, arrays)
    files = external.attach(model, file, where)
    source = digest.of_model(model) if content is None else digest.of_bytes(content, files)
    notes += repair(model, where)
    return Loaded(model, tuple(notes), source)


def _fill(model: ir.Model, arrays: Sequence[tuple[onnx.TensorProto, np.ndarray]]) -> None:
    """Give initializers the data that were left out when they were parsed."""
    import onnx_ir as ir

    # One object stands for a part of a message as long as someone holds it.
    held = {id(proto): array for proto, array in arrays}
    for value in model.graph.initializers.values():
        old = value.const_value
        if not isinstance(old, ir.serde.TensorProtoTensor) or id(old.raw) not in held:
            continue
        value.const_value = ir.Tensor(
            held[id(old.raw)],
            old.dtype,
            shape=old.shape,
            name=old.name,
            doc_string=old.doc_string,
            metadata_props=old.metadata_props,
        )


def _check(proto: onnx.ModelProto, where: str) -> None:
    """Refuse what cannot be an ONNX model, and what onnx-ir cannot hold."""
    if not proto.HasField("graph"):
        raise InputError(f"{where} is not an ONNX model: it has no graph", hint="give a .onnx file")
    if not proto.graph.output:
        raise InputError(f"{where}: the graph is empty, it has no output", hint=_REEXPORT)
    _check_versions(
        proto.ir_version, {opset.domain: opset.version for opset in proto.opset_import}, where
    )
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type
        if kind.HasField("map_type") or kind.sequence_type.elem_type.HasField("map_type"):
            raise InputError(
                f"{where}: {value.name!r} is a map, which is not supported",
                hint="export without ZipMap (skl2onnx: options={'zipmap': False})",
            )


def _check_versions(ir_version: int, imports: Mapping[str, int], where: str) -> None:
    import onnx

    if ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{where} has IR version {ir_version}, and onnx {onnx.__version__} knows up to "
            f"{int(onnx.IR_VERSION)}",
            hint="export it for an older one, or upgrade onnx and onnxruntime",
        )
    for domain, version in imports.items():
        newest = _newest_opset(domain)
        if newest is not None and version > newest:
            raise InputError(
                f"{where} uses opset {version} of {domain or 'ai.onnx'}, and onnx "
                f"{onnx.__version__} knows up to {newest}",
                hint="export it for an older opset, or upgrade onnx and onnxruntime",
            )


def _newest_opset(domain: str) -> int | None:
    import onnx

    if domain in ("", "ai.onnx"):
        return onnx.defs.onnx_opset_version()
    if domain == "ai.onnx.ml":
        return onnx.defs.onnx_ml_opset_version()
    return None


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
