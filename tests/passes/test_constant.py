# SPDX-License-Identifier: Apache-2.0
"""Constants: found without being read, and read as the runtime would compute them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.backends import onnxruntime
from burnish.passes.constant import as_array, is_constant, scalar_of, tensor_of
from burnish.testing import parse


def _last(model: ir.Model) -> ir.Value:
    return model.graph[-1].outputs[0]


def _initializer(array: np.ndarray[Any, Any], name: str = "w") -> ir.Value:
    return ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1, 2}", np.array([1, 2], np.float32)),
        ("value_float = 2.5", np.array(2.5, np.float32)),
        ("value_floats = [1.0, 2.5]", np.array([1, 2.5], np.float32)),
        ("value_int = 7", np.array(7, np.int64)),
        ("value_ints = [7, -8]", np.array([7, -8], np.int64)),
        ("value_ints: ints = []", np.array([], np.int64)),
    ],
)
def test_every_form_of_a_constant_node(attribute: str, expected: np.ndarray[Any, Any]) -> None:
    model = parse(f"g () => (float[N] y) {{ y = Constant <{attribute}> () }}")
    array = as_array(_last(model))
    assert array is not None
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array, expected)


def test_strings() -> None:
    model = parse('g () => (string[1] y) { y = Constant <value = string[1] {"a"}> () }')
    array = as_array(_last(model))
    assert array is not None
    assert array.dtype == object
    assert scalar_of(_last(model)) is None


def test_an_input_with_a_default_is_no_constant() -> None:
    model = parse("g (float[1] w = {1}) => (float[1] y) { y = Identity(w) }")
    assert tensor_of(model.graph.initializers["w"]) is None
    assert not is_constant(model.graph.initializers["w"])
    assert as_array(_last(model)) is None


def test_what_is_computed_or_given_or_missing_is_no_constant() -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) <float[1] w = {1}> "
        "{ a = Neg(w)  b = Add(x, w)  y = Cast <to = 1> (b) }"
    )
    for value in (None, model.graph.inputs[0], *(node.outputs[0] for node in model.graph)):
        assert not is_constant(value)
        assert as_array(value) is None
        assert scalar_of(value) is None


def test_a_constant_that_takes_a_functions_attribute_is_no_constant() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N] x) => (float[N] y) { y = local.scale <k = 2.0> (x) }
        <opset_import: ["" : 21], domain: "local">
        scale <k> (v) => (r) { c = Constant <value_float: float = @k> ()  r = Mul(v, c) }"""
    )
    (function,) = model.functions.values()
    assert not is_constant(function[0].outputs[0])


def test_an_operator_of_another_domain_is_no_view() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
        g () => (float[1] y) <float[1] w = {1}> { y = mine.Identity(w) }"""
    )
    assert not is_constant(_last(model))


def test_finding_a_constant_does_not_read_it() -> None:
    def unread() -> ir.TensorProtocol:
        raise AssertionError("read")

    value = _initializer(np.zeros((2, 3), np.float32))
    value.const_value = ir.LazyTensor(unread, ir.DataType.FLOAT, ir.Shape([2, 3]), name="w")
    node = ir.node("Transpose", [value])
    graph = ir.Graph([], [node.outputs[0]], nodes=[node], initializers=[value], name="g")
    assert is_constant(graph[0].outputs[0])
    assert scalar_of(graph[0].outputs[0]) is None  # more than one element
    with pytest.raises(AssertionError, match="read"):
        as_array(graph[0].outputs[0])


VIEWS = [
    ("Identity(w)", {}),
    ("Cast <to = 11> (w)", {}),
    ("Cast <to = 6> (w)", {}),
    ("Cast <to = 9> (w)", {}),
    ("Transpose(w)", {}),
    ("Transpose <perm = [2, 0, 1]> (w)", {}),
    ("Flatten(w)", {}),
    ("Flatten <axis = 0> (w)", {}),
    ("Flatten <axis = -1> (w)", {}),
    ("Flatten <axis = 3> (w)", {}),
    ("Reshape(w, k)", {"k": [3, -1]}),
    ("Reshape(w, k)", {"k": [0, 0, -1, 1]}),
    ("Reshape(w, k)", {"k": [24]}),
    ("Unsqueeze(w, k)", {"k": [0, -1]}),
    ("Unsqueeze(w, k)", {"k": [2]}),
    ("Unsqueeze(w, k)", {"k": [4, 0]}),
]


@pytest.mark.parametrize(("view", "more"), VIEWS, ids=[f"{v}{m.get('k', '')}" for v, m in VIEWS])
def test_a_view_is_what_the_runtime_computes(view: str, more: dict[str, list[int]]) -> None:
    array = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    model = parse(f"g () => (float[N] y) {{ y = {view} }}")
    node = model.graph[0]
    values: list[np.ndarray[Any, Any]] = [
        array,
        *(np.array(ints, np.int64) for ints in more.values()),
    ]
    for index, (name, held) in enumerate(zip(["w", *more], values, strict=True)):
        value = _initializer(held, name)
        model.graph.initializers.add(value)
        node.replace_input_with(index, value)
    mine = as_array(_last(model))
    assert mine is not None
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(mine.dtype))
    model.graph.outputs[0].shape = None
    with onnxruntime.session(model) as session:
        theirs = session.run({})["y"]
    assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(mine, theirs)
    assert mine.shape == theirs.shape


@pytest.mark.parametrize("axes", ["", "<axes = [0, -1]>"])
def test_axes_were_an_attribute_before_opset_13(axes: str) -> None:
    header = '<ir_version: 7, opset_import: ["" : 11]>\n'
    model = parse(
        f"{header} g () => (float[N] y) <float[1,3,1] w = {{1, 2, 3}}> {{ y = Squeeze {axes} (w) }}"
    )
    array = as_array(_last(model))
    assert array is not None
    assert array.shape == (3,)
    model = parse(
        f"{header} g () => (float[N] y) <float[2] w = {{1, 2}}> "
        "{ y = Unsqueeze <axes = [0, 2]> (w) }"
    )
    array = as_array(_last(model))
    assert array is not None
    assert array.shape == (1, 2, 1)


def test_zero_in_a_shape_may_mean_zero() -> None:
    model = parse(
        "g () => (float[N] y) <int64[3] k = {0, 3, 0}> { y = Reshape <allowzero = 1> (w, k) }"
    )
    value = _initializer(np.zeros((0, 5), np.float32))
    model.graph.initializers.add(value)
    model.graph[0].replace_input_with(0, value)
    array = as_array(_last(model))
    assert array is not None
    assert array.shape == (0, 3, 0)


def test_a_view_by_something_computed_is_no_constant() -> None:
    model = parse(
        "g (int64[1] k) => (float[N] y) <float[2,2] w = {1, 2, 3, 4}> { y = Reshape(w, k) }"
    )
    assert not is_constant(_last(model))


@given(data=st.data())
def test_chains_of_views(data: st.DataObject) -> None:
    """Any chain of a few transposes, reshapes and casts, against the runtime."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    array = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(-9, 9)))
    value = _initializer(array)
    nodes: list[ir.Node] = []
    initializers = [value]
    current, dims = value, list(shape)
    for index in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["Transpose", "Reshape", "Identity", "Unsqueeze", "Cast"]))
        if kind == "Transpose":
            perm = data.draw(st.permutations(range(len(dims))))
            node = ir.node(kind, [current], {"perm": perm})
            dims = [dims[axis] for axis in perm]
        elif kind in ("Reshape", "Unsqueeze"):
            ints = [-1, dims[0]] if kind == "Reshape" else [data.draw(st.integers(0, len(dims)))]
            extra = _initializer(np.array(ints, np.int64), f"k{index}")
            initializers.append(extra)
            node = ir.node(kind, [current, extra])
            if kind == "Reshape":
                dims = [int(np.prod(dims)) // dims[0], dims[0]]
            else:
                dims.insert(ints[0], 1)
        else:
            node = ir.node(kind, [current], {"to": 1} if kind == "Cast" else None)
        node.outputs[0].name = f"t{index}"
        nodes.append(node)
        current = node.outputs[0]
    current.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [], [current], nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    assert is_constant(current)
    mine = as_array(current)
    assert mine is not None
    with onnxruntime.session(model) as session:
        theirs = session.run({})[current.name or ""]
    np.testing.assert_array_equal(mine, theirs)
    assert list(mine.shape) == list(theirs.shape) == dims


def test_a_very_long_chain_is_given_up_on() -> None:
    rows = " ".join(f"t{i + 1} = Identity(t{i})" for i in range(40))
    model = parse(f"g () => (float[1] t40) <float[1] t0 = {{1}}> {{ {rows} }}")
    assert is_constant(model.graph[3].outputs[0])
    assert not is_constant(_last(model))
    assert as_array(_last(model)) is None


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ("float w = {2.5}", 2.5),
        ("float[1,1] w = {2.5}", 2.5),
        ("int64[1] w = {3}", 3.0),
        ("double w = {0.1}", 0.1),
        ("bool w = {1}", 1.0),
        ("float[2] w = {1, 2}", None),
    ],
)
def test_scalars(constant: str, expected: float | None) -> None:
    model = parse(f"g () => (float[N] y) <{constant}> {{ y = Identity(w) }}")
    assert scalar_of(_last(model)) == expected


def test_no_axes_are_all_of_size_1_to_squeeze() -> None:
    model = parse(
        "g () => (float[N] y) <float[1,2,1] w = {1, 2}, int64[0] axes = {}> "
        "{ y = Squeeze(w, axes) }"
    )
    array = as_array(_last(model))
    assert array is not None
    assert array.shape == (2,)


def test_what_the_caller_of_a_function_decides_is_unknown() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f<to = 1>(x) }
        <domain: "local", opset_import: ["" : 21]> f <to> (x) => (y)
        { w = Constant<value = int64[1] {3}>()  c = Cast<to: int = @to>(w)  y = Mul(x, c) }"""
    )
    (function,) = model.functions.values()
    cast = function.graph[1].outputs[0]
    assert not is_constant(cast)
    assert as_array(cast) is None


def test_a_constant_without_a_value_is_unknown() -> None:
    assert tensor_of(ir.Node("", "Constant", []).outputs[0]) is None
