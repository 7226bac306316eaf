# SPDX-License-Identifier: Apache-2.0
"""Damage within a model that protobuf does not see: it is said here what is damaged, and where.

onnx-ir reads tensors, attributes and names as they come, and whoever uses them first would fail.
One walk, linear in the nodes. Protobuf tells the size of data only by copying them: that of large
weights is looked at in hindsight, if a pass fails.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_DAMAGED = "the file is damaged or badly made; export it again"
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_STRING, _TENSOR, _GRAPH = 3, 4, 5  # onnx.AttributeProto.STRING and so on
_STANDARD = ("", "ai.onnx")
_LARGEST = 2**63 - 1  # what ONNX has for a number of elements
_SMALL = 2**20  # bytes of data that are copied at no cost


def check_contents(proto: onnx.ModelProto, where: str, *, small: float = _SMALL) -> None:
    """Check tensors, types of attributes, and texts of a model, of its subgraphs and functions.

    Args:
        proto: The model, not changed.
        where: What to call the model in an error.
        small: The data of tensors up to this many bytes are compared with their shape.

    Raises:
        InputError: a tensor has no known type, or holds more or less than its shape says; an
            attribute has no type; a name or a remark is no text.
    """
    _remarks(proto, where)
    _graph(proto.graph, where, small)
    for function in proto.functions:
        _nodes(function.node, f"{where}, function {function.name!r}", small)


def _graph(graph: onnx.GraphProto, where: str, small: float) -> None:
    for tensor in graph.initializer:
        _tensor(tensor, f"{where}: initializer {tensor.name!r}", small)
    _remarks(graph, where)
    for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _text(info.name, where)
        _remarks(info, where)
    _nodes(graph.node, where, small)


def _nodes(nodes: Iterable[onnx.NodeProto], where: str, small: float) -> None:
    for node in nodes:
        for text in (node.op_type, node.domain, node.name, *node.input, *node.output):
            _text(text, where)
        _remarks(node, where)
        for attribute in node.attribute:
            _attribute(attribute, node, where, small)


def _attribute(
    attribute: onnx.AttributeProto, node: onnx.NodeProto, where: str, small: float
) -> None:
    _text(attribute.name, where)
    of = f"{where}: attribute {attribute.name!r} of {node.op_type} node {_name(node)!r}"
    if not attribute.type:
        raise InputError(f"{of} has no type", hint=_DAMAGED)
    if attribute.ref_attr_name:
        return
    if attribute.type == _STRING and node.domain in _STANDARD:  # others may hold what they like
        try:
            attribute.s.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{of} is no text in UTF-8", hint=_DAMAGED) from error
    for tensor in (*([attribute.t] if attribute.type == _TENSOR else ()), *attribute.tensors):
        _tensor(tensor, of, small)
    for graph in (*([attribute.g] if attribute.type == _GRAPH else ()), *attribute.graphs):
        _graph(graph, where, small)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "")


def _remarks(item: Any, where: str) -> None:
    _text(item.doc_string, where)
    for entry in item.metadata_props:
        _text(entry.key, where)
        _text(entry.value, where)


def _text(text: str, where: str) -> None:
    if not isinstance(text, str):  # protobuf hands over what is no UTF-8 as bytes
        raise InputError(
            f"{where}: {textwrap.shorten(repr(text), 80)} is no text in UTF-8", hint=_DAMAGED
        )


def _tensor(tensor: onnx.TensorProto, of: str, small: float) -> None:
    import onnx_ir as ir

    shape = list(tensor.dims)
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype is ir.DataType.UNDEFINED:
        raise InputError(f"{of} has no known type, but {tensor.data_type}", hint=_DAMAGED)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > _LARGEST:
        raise InputError(f"{of} cannot have shape {shape}", hint=_DAMAGED)
    if tensor.data_location == tensor.EXTERNAL:
        _external(tensor, of)
        return
    if tensor.HasField("segment"):
        raise InputError(f"{of} is a segment of a tensor", hint=_DAMAGED)
    if tensor.HasField("raw_data"):
        if _bytes(dtype, count) > small:
            return
        held, size, unit = len(tensor.raw_data), _bytes(dtype, count), "bytes"
    else:
        held = sum(len(getattr(tensor, field)) for field in _FIELDS)
        size, unit = _numbers(dtype, count), "numbers"
    if held != size:
        raise InputError(
            f"{of} holds {held} {unit}; {dtype} of shape {shape} takes {size}", hint=_DAMAGED
        )


def _bytes(dtype: ir.DataType, count: int) -> int:
    import onnx_ir as ir

    return 0 if dtype is ir.DataType.STRING else math.ceil(count * dtype.bitwidth / 8)


def _numbers(dtype: ir.DataType, count: int) -> int:
    """How many entries of a typed field hold a tensor."""
    import onnx_ir as ir

    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    if dtype is ir.DataType.STRING or dtype.bitwidth >= 8:
        return count
    return _bytes(dtype, count)  # an entry holds a byte of them


def _external(tensor: onnx.TensorProto, of: str) -> None:
    said = {entry.key: entry.value for entry in tensor.external_data}
    if not said.get("location"):
        raise InputError(f"{of} is external data without the name of a file", hint=_DAMAGED)
    for key in ("offset", "length"):
        if key in said and not said[key].isdecimal():
            raise InputError(
                f"{of} is external data with {key} {said[key]!r}, which is no number of bytes",
                hint=_DAMAGED,
            )
