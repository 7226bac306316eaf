# SPDX-License-Identifier: Apache-2.0
"""Inferred shapes: what a rule may rely on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import session
from burnish.passes.shapes import forget_shapes, infer_node, infer_shapes
from burnish.testing import parse


def shape_of(model: ir.Model, name: str) -> ir.Shape:
    """Return the inferred shape of a value."""
    (value,) = [v for node in model.graph for v in node.outputs if v.name == name]
    assert value.shape is not None
    return value.shape


@pytest.mark.parametrize("expression", ["Add(x, z)", "Mul(z, x)", "Expand(x, s)", "Where(c, x, z)"])
def test_two_names_broadcast_to_neither(expression: str) -> None:
    """N may be 1 where M is not, and the other way around."""
    model = parse(
        "g (float[N,4] x, float[M,4] z, bool c) => (y) "
        f"{{ s = Shape(z)  a = {expression}  y = Neg(a) }}"
    )
    infer_shapes(model)
    rows, columns = shape_of(model, "a")
    assert columns == 4
    assert rows not in ("N", "M")
    assert isinstance(rows, ir.SymbolicDim)


def test_one_name_broadcasts_to_itself() -> None:
    model = parse("g (float[N,4] x, float[N,1] z) => (y) { a = Add(x, z)  y = Neg(a) }")
    infer_shapes(model)
    assert shape_of(model, "a") == ["N", 4]


@pytest.mark.parametrize(
    ("cut", "known"),
    [
        ("Slice(positions, zero, length, axis)", True),  # at most 512, so that N is too
        ("Slice(positions, one, length, axis)", False),
        ("Slice(positions, zero, other, axis)", False),
    ],
)
def test_a_size_cut_at_a_constant_broadcasts_to_the_whole(cut: str, known: bool) -> None:
    """As embeddings of positions, from a table of 512, are added to those of N words."""
    text = f"""g (float[1,N,4] x, float[1,512,1] positions, float[M] z) => (y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] axis = {{1}}>
        {{
            length = Shape <start = 1, end = 2> (x)
            other = Shape(z)
            p = {cut}
            a = Add(x, p)
            y = Neg(a)
        }}"""
    model = parse(text)
    infer_shapes(model)
    assert (shape_of(model, "a") == [1, "N", 4]) is known


def test_a_size_made_up_for_a_new_node_has_no_name() -> None:
    """Two unrelated nodes would otherwise get the same made-up name, and count as equal."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3, 4]))
    node = ir.Node("", "NonZero", [x], num_outputs=1)
    infer_node(node, {"": 21})
    shape = node.outputs[0].shape
    assert shape is not None
    rank, found = shape
    assert rank == 2
    assert isinstance(found, ir.SymbolicDim)
    assert found.value is None


def test_no_notes_of_the_library_stay_in_the_model() -> None:
    model = parse("g (float[N,4] x) => (y) { s = Shape(x)  y = Expand(x, s) }")
    infer_shapes(model)
    for node in model.graph:
        assert not any(value.metadata_props for value in node.outputs)


@pytest.mark.parametrize(
    ("nodes", "known"),
    [
        ("a = Squeeze(x)", False),  # N may be 1
        ("a = Squeeze(x, axes)", False),
        ("i = Constant<value = int64[1] {1}>()  a = Squeeze(x, i)", True),
        ("c = Slice(x, one, two)  a = Squeeze(z)", True),
    ],
)
def test_squeeze_is_known_where_its_axes_are(nodes: str, known: bool) -> None:
    model = parse(
        "g (float[N,1,4] x, float[1,3] z, int64[K] axes) => (y) "
        f"<int64[1] one = {{1}}, int64[1] two = {{2}}> {{ {nodes}  y = Neg(a) }}"
    )
    infer_shapes(model)
    (a,) = [v for node in model.graph for v in node.outputs if v.name == "a"]
    assert (a.shape is not None) == known
    assert a.dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("start", "end", "known"), [(0, 2, False), (1, 3, False), (0, 2**63 - 1, True)]
)
def test_a_slice_of_an_unknown_size_is_of_unknown_size(start: int, end: int, known: bool) -> None:
    model = parse(
        f"g (float[N,4] x) => (y) <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, "
        "int64[1] zero = {0}> { a = Slice(x, s, e, zero)  y = Neg(a) }"
    )
    for _ in range(2):  # the second time, a shape is there to be refined
        infer_shapes(model)
        rows, columns = shape_of(model, "a")
        assert columns == 4
        assert isinstance(rows, ir.SymbolicDim)
        assert (rows == "N") == known
        model.graph.outputs[0].shape = None
        forget_shapes(model)


@pytest.mark.parametrize(
    ("features", "indices", "shape"),
    [
        ((6,), (4,), (1, 4)),
        ((6,), (4, 1), (1, 4)),
        ((3, 6), (2, 2), (3, 4)),
        ((3, 6), (4,), (3, 4)),
    ],
)
def test_features_are_extracted_by_all_indices(
    features: tuple[int, ...], indices: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 1]>'
        f"g (float{[*features]} x, int64{[*indices]} i) => (float[A,B] y)"
        "{ a = ai.onnx.ml.ArrayFeatureExtractor(x, i)  y = Neg(a) }"
    )
    infer_shapes(model)
    feeds: dict[str, np.ndarray] = {
        "x": np.zeros(features, np.float32),
        "i": np.zeros(indices, np.int64),
    }
    assert session(model).run(feeds)["y"].shape == shape
    (a,) = [v for node in model.graph for v in node.outputs if v.name == "a"]
    assert a.shape is None or a.shape == shape


@pytest.mark.parametrize(
    ("left", "right", "equation", "shape"),
    [
        ("1,3", "4,3", "ab,ab->ba", [3, 4]),
        ("4,N", "4,3", "ab,ab->ab", [4, 3]),
        ("1,1,3", "5,4,3", "...b,...b->...b", [5, 4, 3]),
        ("5,3,1", "5,3,2", "a...b,a...b->b...a", [2, 3, 5]),
        ("N,3", "N,3", "ab,ab->a", ["N"]),
    ],
)
def test_einsum_broadcasts_axes_of_one_letter(
    left: str, right: str, equation: str, shape: list[int | str]
) -> None:
    model = parse(
        f"g (float[{left}] x, float[{right}] z) => (float[{','.join('ABC'[: len(shape)])}] y)"
        f'{{ a = Einsum<equation="{equation}">(x, z)  y = Neg(a) }}'
    )
    infer_shapes(model)
    assert shape_of(model, "a") == shape
    numbers = [[3 if dim == "N" else int(dim) for dim in dims.split(",")] for dims in (left, right)]
    x, z = (np.ones(dims, np.float32) for dims in numbers)
    y = session(model).run({"x": x, "z": z})["y"]
    assert y.shape == tuple(3 if dim == "N" else dim for dim in shape)


def test_einsum_of_two_names_is_of_neither() -> None:
    model = parse(
        "g (float[N,4] x, float[M,4] z) => (y) "
        '{ a = Einsum<equation="ab,ab->a">(x, z)  y = Neg(a) }'
    )
    infer_shapes(model)
    (rows,) = shape_of(model, "a")
    assert isinstance(rows, ir.SymbolicDim)
    assert rows not in ("N", "M")


def test_declared_sizes_without_a_name_are_inferred() -> None:
    model = parse(
        "g (float[N,4] x) => (float[N,2,2] y)"
        "<int64[3] s = {0, 2, 2}, float[N,4] a, float[?,?,?] b>"
        "{ a = Neg(x)  b = Reshape(a, s)  y = Neg(b) }"
    )
    infer_shapes(model)
    assert shape_of(model, "b") == ("N", 2, 2)


def test_an_expand_of_an_unknown_shape_is_of_unknown_shape() -> None:
    model = parse(
        "g (float[4] x, int64[K] s) => (y) <int64[2] ones = {1, 1}> "
        "{ r = Reshape(x, s)  a = Expand(r, ones)  y = Neg(a) }"
    )
    model.graph.inputs[1].shape = None
    infer_shapes(model)
    (a,) = [v for node in model.graph for v in node.outputs if v.name == "a"]
    assert a.shape is None
