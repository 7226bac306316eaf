# SPDX-License-Identifier: Apache-2.0
"""Protobuf's wire format, as far as it takes to write and read a model whose weights are not in it.

Protobuf serializes to memory alone: the weights would be copied into a message, from there into
its serialized form, and from there into the file. Here the message holds none; its serialized form
is cut where they belong, and the lengths of what holds them are corrected. And it parses to memory
of its own, out of which data are had as copies alone: so the message that is parsed holds none.

Source of the format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Fields of onnx.proto: of ModelProto, of GraphProto, and of TensorProto.
_GRAPH = 7
_INITIALIZER = 5
_SEGMENT, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 3, 8, 9, 13, 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Piece = bytes | memoryview | str


def pieces(model: bytes, sizes: Mapping[str, int]) -> tuple[list[Piece], int]:
    """Cut a serialized model where data of initializers are to be filled in.

    Args:
        model: Serialized; `raw_data` of the initializers of `sizes` are there, and empty.
        sizes: Name of an initializer of the main graph -> number of bytes it will have.

    Returns:
        What to write, in order: bytes, or the name of an initializer whose data stand here. And
        the number of bytes this takes in all.
    """
    return _outer(memoryview(model), (_GRAPH, _INITIALIZER), sizes)


def without_data(model: memoryview, least: int) -> tuple[bytes, dict[int, slice]]:
    """Leave large raw data of initializers out of a serialized model.

    Args:
        model: Serialized.
        least: Fewest bytes that are left out.

    Returns:
        The model, in which these data are empty. And where they lie, by the number of the
        initializer in the main graph.

    Raises:
        ValueError: it is no whole message.
    """
    found: dict[int, slice] = {}
    kept: list[bytes | memoryview] = []
    count, rest = 0, 0
    for number, start, content, end in _whole_fields(model):
        if number != _GRAPH:
            continue
        parts: list[bytes | memoryview] = []
        inner = content
        for member, first, at, last in _whole_fields(model[content:end]):
            if member != _INITIALIZER:
                continue
            data = _data_of(model[content + at : content + last], least)
            if data is not None:
                begin, data_at, stop = (content + at + place for place in data)
                found[count] = slice(data_at, stop)
                empty = _header(_RAW_DATA, 0)
                size = last - at - (stop - begin) + len(empty)
                parts += [model[inner : content + first], _header(_INITIALIZER, size)]
                parts += [model[content + at : begin], empty, model[stop : content + last]]
                inner = content + last
            count += 1
        parts.append(model[inner:end])
        kept += [model[rest:start], _header(_GRAPH, sum(map(len, parts))), *parts]
        rest = end
    return b"".join([*kept, model[rest:]]), found


def _data_of(tensor: memoryview, least: int) -> tuple[int, int, int] | None:
    """Where the field of raw data starts, where they do, and where they end; None if not large."""
    if len(tensor) < least:
        return None
    found = None
    for number, start, content, end in _whole_fields(tensor):
        if number in (_SEGMENT, _EXTERNAL_DATA, _DATA_LOCATION) or (found and number == _RAW_DATA):
            return None
        if number == _RAW_DATA and end - content >= least:
            found = start, content, end
    return found


def _whole_fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    try:
        for field in _fields(message):
            if field[-1] > len(message):
                raise ValueError("a field ends behind its message")
            yield field
    except (IndexError, KeyError) as error:
        raise ValueError("not a message") from error


def _outer(
    message: memoryview, path: tuple[int, ...], sizes: Mapping[str, int]
) -> tuple[list[Piece], int]:
    """Cut a message that holds initializers at this path of fields."""
    made: list[Piece] = []
    total = len(message)
    kept = 0  # up to where the message has been taken over
    for number, start, content, end in _fields(message):
        if number != path[0]:
            continue
        inner = message[content:end]
        cut, size = _outer(inner, path[1:], sizes) if path[1:] else _tensor(inner, sizes)
        if size == len(inner):
            continue
        head = _header(number, size)
        made += [message[kept:start], head, *cut]
        total += len(head) + size - (end - start)
        kept = end
    return [*made, message[kept:]], total


def _tensor(message: memoryview, sizes: Mapping[str, int]) -> tuple[list[Piece], int]:
    found = {number: (start, content, end) for number, start, content, end in _fields(message)}
    _, content, end = found.get(_NAME, (0, 0, 0))
    name = str(message[content:end], "utf-8")
    if name not in sizes:
        return [message], len(message)
    start, _, end = found[_RAW_DATA]
    head = _header(_RAW_DATA, sizes[name])
    total = len(message) - (end - start) + len(head) + sizes[name]
    return [message[:start], head, name, message[end:]], total


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield the number of each field, where it starts, where its content does, and its end."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind, content = key & 7, at
        if kind == _BYTES:
            size, content = _read_varint(message, at)
            at = content + size
        elif kind == _VARINT:
            _, at = _read_varint(message, at)
        else:
            at += {_FIXED64: 8, _FIXED32: 4}[kind]
        yield key >> 3, start, content, at


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _header(number: int, size: int) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(size)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
