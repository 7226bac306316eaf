# SPDX-License-Identifier: Apache-2.0
"""Hand a model in memory over to ONNX Runtime without copying its weights.

The model is serialized without its large initializers. Those that lie in files are mapped by the
runtime from there; those in memory are handed over as views of their arrays. So a model may be
larger than protobuf's 2 GB, and one whose weights are in files larger than memory.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from burnish.backends import weights
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import onnxruntime

_INLINE_BYTES = 1024
"""Initializers up to this size travel inside the model: shape inference reads small constants."""


def hand_over(
    model: ir.Model, extra: Sequence[str], options: onnxruntime.SessionOptions
) -> tuple[bytes, list[object]]:
    """Serialize a model without its large weights; the options tell the runtime where they are.

    Args:
        model: The model; not changed.
        extra: Names of values of its main graph to give as outputs after its own.
        options: Of the session to be; changed.

    Returns:
        The model, and what must live as long as the session: the runtime reads weights from it.

    Raises:
        InputError: the model cannot be written, its weights cannot be read, or there is no such
            value.
    """
    import onnx_ir as ir

    from burnish.backends.kernels import max_ir_version

    try:
        folder, in_files, in_arrays = _large_weights(model)
        unused = _unused(model, extra)
        stand_ins = _stand_ins(model, folder, in_files, in_arrays)
        with weights.attributes_in_memory(model), weights.tensors_replaced(stand_ins):
            proto = ir.to_proto(model)
    except OSError as error:
        raise InputError(
            f"external data {error.filename} cannot be read: {error.strerror}",
            hint="keep the data file beside the model it belongs to",
        ) from error
    except ir.serde.SerdeError as error:
        raise InputError(f"the model cannot be written as ONNX: {error.__cause__}") from error
    # The number only says which parts of the format may occur; one that the runtime does not know
    # is refused or accepted part by part.
    proto.ir_version = min(proto.ir_version, max_ir_version())
    _expose(model, proto.graph, extra)
    # The runtime drops weights that nothing uses as it loads, then misses those handed to it.
    if unused:
        kept = [i for i in proto.graph.initializer if i.name not in unused]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
    for name in unused & in_arrays.keys():
        del in_arrays[name]
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    keep_alive = _attach(in_arrays, _as_they_are(model), options)
    try:
        return bytes(proto.SerializeToString(deterministic=True)), keep_alive
    except ValueError as error:
        raise InputError(
            "the model holds over 2 GB outside the initializers of its main graph",
            hint="turn Constant nodes and subgraph weights into initializers",
        ) from error


def _large_weights(
    model: ir.Model,
) -> tuple[Path | None, dict[str, tuple[ir.ExternalTensor, Path]], dict[str, ir.TensorProtocol]]:
    """Weights of the main graph that need not travel in the model.

    Returns:
        A folder that holds the files; weights that lie in files, with the file; the other weights.
    """
    import onnx_ir as ir

    in_files, in_arrays = {}, {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            if tensor.nbytes > _INLINE_BYTES:
                in_files[name] = tensor, _file_of(tensor)
        elif tensor is None or tensor.dtype is ir.DataType.STRING:
            continue
        elif tensor.nbytes > _INLINE_BYTES:
            in_arrays[name] = tensor
    folders = {path.parent for _, path in in_files.values()}
    folder = Path(os.path.commonpath(folders)) if folders else None
    return folder, in_files, in_arrays


def _unused(model: ir.Model, extra: Sequence[str]) -> set[str]:
    """Weights of the main graph that no node and no output uses, and that are no input."""
    return {
        name
        for name, value in model.graph.initializers.items()
        if not value.uses()
        and not value.is_graph_output()
        and not value.is_graph_input()
        and name not in extra
    }


def _file_of(tensor: ir.ExternalTensor) -> Path:
    """The file of an external tensor. Models come from anywhere: it may not leave their folder."""
    folder, path = Path(tensor.base_dir).resolve(), Path(tensor.path).resolve()
    if not path.is_relative_to(folder):
        raise InputError(f"external data {tensor.location} lies outside the folder of its model")
    return path


def _stand_ins(
    model: ir.Model,
    folder: Path | None,
    in_files: Mapping[str, tuple[ir.ExternalTensor, Path]],
    in_arrays: Mapping[str, ir.TensorProtocol],
) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """What to serialize in place of weights: names for large ones, values for small ones in files.

    The runtime takes names for the main graph alone; what subgraphs own stays in the model.
    """
    import onnx_ir as ir

    for graph, value, tensor in weights.initialized(model):
        name = value.name or ""
        if graph is model.graph and name in in_arrays:
            location, offset, length = _location(name), 0, tensor.nbytes
        elif graph is model.graph and name in in_files and folder is not None:
            external, path = in_files[name]
            location = str(path.relative_to(folder))
            offset, length = external.offset or 0, external.length or external.nbytes
        elif isinstance(tensor, ir.ExternalTensor):
            yield value, weights.in_memory(tensor)
            continue
        else:
            continue
        shape = ir.Shape(tensor.shape.numpy())
        yield (
            value,
            ir.ExternalTensor(location, offset, length, tensor.dtype, shape=shape, name=name),
        )


def _location(name: str) -> str:
    # Not the name itself: it is read as the path of a file, and may hold any character.
    return name.encode().hex()


# Operator -> its inputs that the runtime's optimizations leave as they are, whatever moves around.
_OPERANDS = (
    {op: range(1, 2) for op in ("Conv", "ConvTranspose", "FusedConv", "MatMulNBits")}
    | {op: range(2) for op in ("Gemm", "MatMul", "MatMulInteger", "FusedMatMul", "FusedGemm")}
    | {op: range(1, 4) for op in ("GRU", "LSTM", "RNN")}
    | {"Gather": range(1)}
)


def _as_they_are(model: ir.Model) -> set[str]:
    """Weights of the main graph that the runtime does not transpose or give another rank.

    Those of operators that work element by element it does, where a Transpose moves past the
    operator, and under the same name: a kernel that then reads what was handed over reads it in
    the wrong order.
    """
    return {
        name
        for name, value in model.graph.initializers.items()
        if all(at in _OPERANDS.get(node.op_type, ()) for node, at in value.uses())
    }


def _attach(
    tensors: Mapping[str, ir.TensorProtocol],
    as_they_are: Collection[str],
    options: onnxruntime.SessionOptions,
) -> list[object]:
    """Give the runtime views of `tensors`; returns what must live as long as the session."""
    import onnxruntime

    views: dict[str, object] = {}
    packed: dict[str, bytes] = {}
    for name, tensor in tensors.items():
        if tensor.dtype.bitwidth < 8:  # NumPy unpacks these, so there is no array to share
            packed[_location(name)] = tensor.tobytes()
        else:
            views[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(tensor.numpy()), int(tensor.dtype)
            )
    # The first call gives the values to the graph, which may fold them; the second makes kernels
    # read them where they are. With the first alone, they are copied.
    options.add_external_initializers(list(views), list(views.values()))
    for name in views.keys() & as_they_are:
        options.add_initializer(name, views[name])
    options.add_external_initializers_from_files_in_memory(
        list(packed), list(packed.values()), list(map(len, packed.values()))
    )
    return [*views.values(), *packed.values()]


def _expose(model: ir.Model, graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Append values to the outputs of `graph`, which is `model`'s main graph."""
    if not names:
        return
    import onnx_ir as ir

    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    values |= {value.name: value for value in model.graph.initializers.values()}
    present = {output.name for output in graph.output}
    for name in names:
        if name in present:
            continue
        if name not in values:
            near = difflib.get_close_matches(name, filter(None, values), n=1)
            raise InputError(
                f"extra output {name!r} is not a value of the main graph",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
        value = values[name]
        if value.type is None:  # the runtime infers it
            graph.output.add().name = name
        else:
            graph.output.append(ir.to_proto(value))
