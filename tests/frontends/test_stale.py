# SPDX-License-Identifier: Apache-2.0
"""Declared sizes that contradict the inputs are inferred again; those that do not are kept."""

from __future__ import annotations

import onnx
import pytest

from burnish import api
from burnish.frontends import load
from burnish.testing import assert_same_outputs

_BODY = (
    "{ a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = Relu(a)  s = Shape(b)  n = Gather(s, zero)"
    " t = Concat<axis = 0>(n, m)  y = Reshape(b, t) }"
)


def network(
    size: str, declared: str | None, output: str = "P,Q", *, inner: str = "a b"
) -> onnx.ModelProto:
    """A convolution whose result is flattened by its own shape.

    Args:
        size: Of the input.
        declared: Of the convolution, and of the activation; None for none.
        output: Of the result.
        inner: Which values to declare.
    """
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{size}] x, float[4,3,3,3] w)'
        f" => (float[{output}] y) <int64[1] zero = {{0}}, int64[1] m = {{-1}}> {_BODY}"
    )
    if declared is not None:
        dims = [int(dim) if dim.isdecimal() else dim for dim in declared.split(",")]
        for name in inner.split():
            model.graph.value_info.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
            )
    return model


@pytest.mark.parametrize(
    ("size", "declared", "output"),
    [
        ("N,3,8,8", "1,4,8,8", "P,Q"),
        ("N,3,8,8", "1,4,8,8", "1,256"),
        ("2,3,8,8", "1,4,8,8", "1,256"),
        ("N,3,H,W", "1,4,8,8", "P,Q"),
        ("1,3,12,12", "1,4,8,8", "1,256"),
        ("N,3,8,8", "1,4,8", "P,Q"),
    ],
)
def test_a_size_that_contradicts_the_inputs_is_forgotten(
    size: str, declared: str, output: str
) -> None:
    stale = network(size, declared, output)
    found = load(stale)
    assert [note for note in found.notes if "contradict" in note]
    made, report = api.optimize(stale, "cleanup")
    assert not report.verification["skipped"]
    assert_same_outputs(load(network(size, None)).model, made)


@pytest.mark.parametrize(
    ("size", "declared", "output"),
    [
        ("1,3,8,8", "1,4,8,8", "1,256"),
        ("N,3,8,8", "N,4,8,8", "N,256"),
        ("N,3,H,W", "N,4,H,W", "N,Q"),
        ("N,3,H,W", "B,4,P,Q", "B,R"),
    ],
)
def test_others_are_kept(size: str, declared: str, output: str) -> None:
    found = load(network(size, declared, output, inner="a"))
    assert not [note for note in found.notes if "contradict" in note]
    (conv, *_) = found.model.graph
    assert ",".join(map(str, conv.outputs[0].shape or ())) == declared


def test_what_the_library_cannot_infer_is_kept() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,4] x) => (float[1,4] y)'
        "{ y = own.Op(x) }"
    )
    assert not load(onnx.parser.parse_model(text)).notes


def test_the_values_of_large_weights_are_not_needed() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[1,64] y)'
        "{ y = MatMul(x, w) }"
    )
    model = onnx.parser.parse_model(text)
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 64], [0.5] * 256)
    model.graph.initializer.append(weights)
    found = load(model)
    (value,) = found.model.graph.outputs
    assert [note for note in found.notes if "contradict" in note]
    assert [str(dim) for dim in value.shape or ()] == ["N", "64"]
