# SPDX-License-Identifier: Apache-2.0
"""Damage within a model is one line that says what and where, before any pass meets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.errors import InputError
from burnish.frontends import load
from burnish.frontends.contents import check_contents

Edit = Callable[[onnx.ModelProto], object]


def model() -> onnx.ModelProto:
    weights = np.ones((4, 3), np.float32)
    made = helper.make_tensor("value", TensorProto.INT4, [3], [1, 2, 3])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["t"], name="first"),
            helper.make_node("Constant", [], ["c"], value=made),
            helper.make_node("Relu", ["t"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weights(proto: onnx.ModelProto) -> onnx.TensorProto:
    tensor: onnx.TensorProto = proto.graph.initializer[0]
    return tensor


def _external(**said: str) -> Edit:
    def edit(proto: onnx.ModelProto) -> None:
        tensor = weights(proto)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in said.items():
            tensor.external_data.add(key=key, value=value)

    return edit


def _as_numbers(proto: onnx.ModelProto) -> None:
    weights(proto).ClearField("raw_data")
    weights(proto).float_data.extend([1.0] * 11)


def _untyped_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].attribute.add(name="mode")


def _mode_of_bytes(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].attribute.add(name="mode", type=3, s=b"\xff")


def _constant_cut_short(proto: onnx.ModelProto) -> None:
    del proto.graph.node[1].attribute[0].t.int32_data[:]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda p: setattr(weights(p), "raw_data", bytes(40)),
            r"'w' holds 40 bytes; FLOAT of shape \[4, 3\] takes 48",
        ),
        (_as_numbers, "'w' holds 11 numbers; FLOAT"),
        (_mode_of_bytes, "'mode' of Relu node 'y' is no text in UTF-8"),
        (_constant_cut_short, "'value' of Constant node 'c' holds 0 numbers; INT4 .* takes 2"),
        (lambda p: setattr(weights(p), "data_type", 0), "'w' has no known type, but 0"),
        (lambda p: setattr(weights(p), "data_type", 99), "'w' has no known type, but 99"),
        (lambda p: weights(p).dims.append(-1), r"'w' cannot have shape \[4, 3, -1\]"),
        (lambda p: weights(p).dims.append(2**62), "'w' cannot have shape"),
        (_untyped_attribute, "'mode' of Relu node 'y' has no type"),
        (_external(location=""), "'w' is external data without the name of a file"),
        (_external(location="w.bin", offset="-8"), "with offset '-8', which is no number"),
        (_external(location="w.bin", length="many"), "with length 'many', which is no number"),
    ],
)
def test_damage_is_named(edit: Edit, message: str) -> None:
    proto = model()
    edit(proto)
    with pytest.raises(InputError, match=message) as caught:
        load(proto)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("export it again")


@pytest.mark.parametrize("word", [b"first", b"MatMul"])
def test_what_is_no_text_is_refused(word: bytes) -> None:
    content = model().SerializeToString().replace(word, b"\xff" + word[1:])
    with pytest.raises(InputError, match="is no text in UTF-8"):
        load(content)


def test_a_good_model_passes() -> None:
    check_contents(model(), "model", small=float("inf"))


def test_damage_in_a_branch_is_found() -> None:
    inner = model().graph
    inner.initializer[0].raw_data = b""
    proto = model()
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=model().graph)
    )
    with pytest.raises(InputError, match="'w' holds 0 bytes"):
        check_contents(proto, "model")
