# SPDX-License-Identifier: Apache-2.0
"""Files written without weights in memory are those that protobuf would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends import onnxfile, wire
from burnish.testing import parse

SIZE = 70_000  # more than a page, and a length of three bytes


def array(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 7, SIZE).astype(dtype)


def from_proto(**fields: Any) -> ir.TensorProtocol:
    proto = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[SIZE], name="w", **fields)
    return ir.serde.deserialize_tensor(proto)


TENSORS: dict[str, Callable[[], ir.TensorProtocol]] = {
    "array": lambda: ir.tensor(array(), name="w"),
    "strided": lambda: ir.Tensor(np.repeat(array(), 2)[::2], name="w"),
    "float16": lambda: ir.tensor(array("float16"), name="w"),
    "int4": lambda: ir.tensor(array("int8"), dtype=ir.DataType.INT4, name="w"),
    "packed": lambda: ir.PackedTensor(
        array("uint8"), dtype=ir.DataType.INT4, shape=ir.Shape([2 * SIZE]), name="w"
    ),
    "lazy": lambda: ir.LazyTensor(
        lambda: ir.tensor(array()), dtype=ir.DataType.FLOAT, shape=ir.Shape([SIZE]), name="w"
    ),
    "proto": lambda: from_proto(raw_data=array().tobytes()),
    "proto-numbers": lambda: from_proto(float_data=array().tolist()),
    "proto-located": lambda: from_proto(raw_data=array().tobytes(), data_location=0),
    "documented": lambda: ir.tensor(array(), name="w", doc_string="what it is"),
    "strings": lambda: ir.StringTensor([b"text"] * SIZE, shape=ir.Shape([SIZE]), name="w"),
    "small": lambda: ir.tensor(np.zeros(3, np.float32), name="w"),
}


def model(tensor: ir.TensorProtocol) -> ir.Model:
    """A model with that weight, others around it, and fields before and after the graph."""
    made = parse("g (float[2] x) => (float[2] y) { y = Identity(x) }")
    others = [ir.tensor(np.arange(n, dtype=np.float32), name=f"v{n}") for n in (1, 5000)]
    for each in (others[0], tensor, others[1]):
        value = ir.Value(
            name=each.name,
            shape=ir.Shape(each.shape.numpy()),
            type=ir.TensorType(each.dtype),
            const_value=each,
        )
        made.graph.register_initializer(value)
    made.producer_name, made.doc_string = "test", "é" * 200
    made.metadata_props["key"] = "value"
    return made


@pytest.mark.parametrize("kind", TENSORS)
def test_the_bytes_are_those_of_protobuf(kind: str, tmp_path: Path) -> None:
    made = model(TENSORS[kind]())
    before = made.graph.initializers["w"].const_value
    onnxfile.save(made, tmp_path / "m.onnx")
    expected = ir.to_proto(made)
    del expected.graph.value_info[:]  # of weights alone, which say it themselves
    assert (tmp_path / "m.onnx").read_bytes() == expected.SerializeToString(deterministic=True)
    assert made.graph.initializers["w"].const_value is before


def test_weights_stay_outside_of_what_is_serialized() -> None:
    proto = ir.to_proto(model(TENSORS["array"]()))
    proto.graph.initializer[1].raw_data = b""
    hollow = proto.SerializeToString(deterministic=True)
    parts, total = wire.pieces(hollow, {"w": 10**10})
    assert parts.count("w") == 1
    assert total == sum(10**10 if part == "w" else len(part) for part in parts)
    assert wire.pieces(hollow, {}) == ([hollow], len(hollow))


@pytest.mark.parametrize("kind", sorted(TENSORS))
def test_a_message_without_data_is_that_with_them_emptied(kind: str) -> None:
    proto = ir.to_proto(model(TENSORS[kind]()))
    content = proto.SerializeToString()
    hollow, places = wire.without_data(memoryview(content), 1000)
    found = onnx.ModelProto.FromString(hollow)
    for index, place in places.items():
        assert content[place] == proto.graph.initializer[index].raw_data
        proto.graph.initializer[index].raw_data = b""
    assert found == proto
    left = [len(tensor.raw_data) for tensor in found.graph.initializer]
    assert max(left) < 1000 or kind in ("proto-located",)


def test_data_of_two_graphs_that_protobuf_merges_are_counted_on() -> None:
    first, second = (
        onnx.ModelProto(graph=onnx.GraphProto(initializer=[onnx.numpy_helper.from_array(array())]))
        for _ in range(2)
    )
    content = first.SerializeToString() + second.SerializeToString()
    hollow, places = wire.without_data(memoryview(content), 1000)
    assert len(onnx.ModelProto.FromString(hollow).graph.initializer) == 2
    assert [content[places[i]] for i in range(2)] == [array().tobytes()] * 2


def test_data_given_twice_stay_where_they_are() -> None:
    tensor = onnx.TensorProto(raw_data=bytes(5000)).SerializeToString()
    graph = b"\x2a" + bytes([len(tensor * 2) & 127 | 128, len(tensor * 2) >> 7]) + tensor * 2
    content = b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph
    assert len(onnx.ModelProto.FromString(content).graph.initializer[0].raw_data) == 5000
    assert wire.without_data(memoryview(content), 1000) == (content, {})


def test_what_is_no_whole_message_has_no_data() -> None:
    content = ir.to_proto(model(TENSORS["array"]())).SerializeToString()
    for end in (len(content) - 1, len(content) // 2, 1):
        with pytest.raises(ValueError, match="message"):
            wire.without_data(memoryview(content)[:end], 1000)
