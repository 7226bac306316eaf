# SPDX-License-Identifier: Apache-2.0
"""Declared sizes that cannot be right for the inputs, as after an input was made dynamic by hand.

Whoever renames the batch of an input to "N" leaves the sizes of all that comes behind it as the
exporter wrote them. A pass that trusts those folds a size that was not meant to be fixed. So the
sizes are inferred from the inputs once more; if a declared one is another number, or a number where
an input's named size reaches, then all are replaced by what is inferred. Weights are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_SMALL = 64  # elements of a constant whose values are kept: shapes and axes


def forget_stale_sizes(proto: onnx.ModelProto) -> list[str]:
    """Replace declared sizes if they contradict the inputs; a note for that.

    Args:
        proto: Edited in place. Only its main graph is looked at.
    """
    import onnx

    declared = {info.name: info for info in _declared(proto.graph)}
    if not any(_has_number(info) for info in declared.values()):
        return []
    try:
        inferred = onnx.shape_inference.infer_shapes(_light(proto))
    except Exception:  # what it cannot infer is for others to complain of
        return []
    found = {info.name: info.type.tensor_type.shape for info in _declared(inferred.graph)}
    symbols = {
        dim.dim_param
        for info in proto.graph.input
        for dim in info.type.tensor_type.shape.dim
        if dim.dim_param
    }
    stale = [
        name
        for name, info in declared.items()
        if name in found and _contradicts(info.type.tensor_type.shape, found[name], symbols)
    ]
    if not stale:
        return []
    for name, info in declared.items():
        _replace(info.type.tensor_type.shape, found.get(name))
    more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
    return [f"declared sizes contradict the inputs, inferred again: {stale[0]!r}{more}"]


def _declared(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield what has a declared shape, but for the inputs."""
    for info in (*graph.value_info, *graph.output):
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            yield info


def _has_number(info: onnx.ValueInfoProto) -> bool:
    return any(dim.HasField("dim_value") for dim in info.type.tensor_type.shape.dim)


def _light(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without declared sizes, and without the values of its weights."""
    import onnx

    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    graph, copy = proto.graph, light.graph
    copy.name = graph.name
    copy.node.extend(graph.node)
    copy.input.extend(graph.input)
    listed = {info.name for info in graph.input}
    for info in graph.output:
        made = copy.output.add(name=info.name, type=info.type)
        if made.type.HasField("tensor_type"):
            made.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        if size <= _SMALL:
            copy.initializer.append(tensor)
        elif tensor.name not in listed:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            copy.input.append(onnx.ValueInfoProto(name=tensor.name, type=kind))
    return light


def _contradicts(
    declared: onnx.TensorShapeProto, found: onnx.TensorShapeProto, symbols: set[str]
) -> bool:
    if len(declared.dim) != len(found.dim):
        return True
    return any(
        mine.HasField("dim_value")
        and (
            (there.HasField("dim_value") and there.dim_value != mine.dim_value)
            or there.dim_param in symbols
        )
        for mine, there in zip(declared.dim, found.dim, strict=True)
    )


def _replace(shape: onnx.TensorShapeProto, found: onnx.TensorShapeProto | None) -> None:
    """Put what was inferred in place of a declared shape; where nothing was, keep its rank."""
    if found is not None:
        shape.CopyFrom(found)
        return
    for dim in shape.dim:
        dim.Clear()
