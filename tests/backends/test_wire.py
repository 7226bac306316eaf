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
