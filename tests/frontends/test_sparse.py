# SPDX-License-Identifier: Apache-2.0
"""Sparse constants are read as dense ones, whichever form their indices have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from burnish.errors import InputError
from burnish.frontends import load

DENSE = np.array([[0, 1.5, 0], [-2, 0, 0]], np.float32)


def model(indices: np.ndarray, dims: tuple[int, ...] = (2, 3), name: str = "w") -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x, float[2,3] w) '
        "=> (float[N,3] y) { y = MatMul(x, w) }"
    )
    del made.graph.input[1]
    made.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=numpy_helper.from_array(np.array([1.5, -2], np.float32), name),
            indices=numpy_helper.from_array(indices),
            dims=dims,
        )
    )
    return made


@pytest.mark.parametrize("indices", [np.array([1, 3]), np.array([[0, 1], [1, 0]])])
def test_both_forms_of_indices(indices: np.ndarray) -> None:
    proto = model(indices)
    onnx.checker.check_model(proto)
    loaded = load(proto)
    tensor = loaded.model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), DENSE)
    assert "1 sparse initializer was made dense" in loaded.notes


def test_sparse_constants_in_subgraphs_too() -> None:
    sparse = model(np.array([1, 3])).graph.sparse_initializer[0]
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x, bool c) => (float[N,3] y) {'
        "y = If(c) <then_branch = t () => (float[N,3] a) { v = Constant<value = float {0}>() "
        "a = MatMul(x, v) }, else_branch = e () => (float[N,3] b) { w = Constant<value = float {0}>"
        "() b = MatMul(x, w) }> }"
    )
    for branch in made.graph.node[0].attribute:
        value = branch.g.node[0].attribute[0]
        value.Clear()
        value.name, value.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
        value.sparse_tensor.CopyFrom(sparse)
    onnx.checker.check_model(made)
    loaded = load(made)
    assert "2 sparse Constants were made dense" in loaded.notes
    constants = [node for node in loaded.model.graph.all_nodes() if node.op_type == "Constant"]
    assert len(constants) == 2
    for node in constants:
        np.testing.assert_array_equal(node.attributes["value"].as_tensor().numpy(), DENSE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: model(np.array([1, 6])),
        lambda: model(np.array([-1, 3])),
        lambda: model(np.array([1, 2, 3])),
        lambda: model(np.array([[0, 1], [2, 0]])),
        lambda: model(np.array([[0, 1, 0], [1, 0, 0]])),
        lambda: model(np.array([1, 3]), dims=()),
        lambda: model(np.array([1, 3]), name=""),
    ],
)
def test_malformed_ones_are_refused(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(InputError, match=r"sparse initializer '.*' is malformed") as caught:
        load(make())
    assert "\n" not in str(caught.value)
