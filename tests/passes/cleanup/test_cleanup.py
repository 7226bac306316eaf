# SPDX-License-Identifier: Apache-2.0
"""The group as a whole: it keeps every output, rests after one round, and loses nothing."""

from __future__ import annotations

import math
import time
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, note
from onnx import helper

from burnish.backends.onnxruntime import session
from burnish.errors import BurnishError
from burnish.testing import parse, rewrites, run_pass

# --- chains of operators that move data ----------------------------------------------------------


class Chain:
    """A random chain of operators on one value, of which NumPy knows the shape."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.opset = self.pick([9, 11, 13, 17, 21])
        self.array = np.zeros(self.sizes(4), np.float32)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.value = "x"
        self.outputs: list[str] = []

    def pick(self, choices: list[Any]) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def sizes(self, most: int) -> list[int]:
        return self.data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=most))

    def constant(self, values: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def axes(self, op_type: str, axes: list[int]) -> None:
        """Append Squeeze or Unsqueeze in the form of the operator set."""
        if self.opset < 13:
            self.value = self.node(op_type, self.value, axes=axes)
        else:
            self.value = self.node(op_type, self.value, self.constant(axes))

    # Each of these appends one operator.

    def reshape(self) -> None:
        left, shape = self.array.size, list[int]()
        while left > 1 and len(shape) < 4:
            shape.append(self.pick([d for d in range(1, left + 1) if left % d == 0]))
            left //= shape[-1]
        shape.append(left)
        old = self.array.shape
        self.array = self.array.reshape(shape)
        elements: list[str] = []
        if self.pick([True, False]):  # computed from the shape there is, as far as it goes
            whole = self.node("Shape", self.value)
            for axis, size in enumerate(shape):
                same = [i for i, dim in enumerate(old) if dim == size]
                if same:
                    index = self.constant([self.pick(same)])
                    elements.append(self.node("Gather", whole, index))
                else:
                    elements.append(self.constant([size]))
                assert axis < len(shape)
            target = self.node("Concat", *elements, axis=0)
        else:
            written = [
                self.pick([size, 0]) if axis < len(old) and old[axis] == size else size
                for axis, size in enumerate(shape)
            ]
            if self.pick([True, False]):
                written[self.number(0, len(written) - 1)] = -1
            target = self.constant(written)
        self.value = self.node("Reshape", self.value, target)

    def transpose(self) -> None:
        perm = self.data.draw(st.permutations(range(self.array.ndim)))
        self.array = self.array.transpose(perm)
        default = list(perm) == list(range(len(perm)))[::-1] and self.pick([True, False])
        given = {} if default or not perm else {"perm": perm}
        self.value = self.node("Transpose", self.value, **given)

    def unsqueeze(self) -> None:
        rank = self.array.ndim + self.number(1, 2)
        places = st.lists(
            st.integers(0, rank - 1),
            min_size=rank - self.array.ndim,
            max_size=rank - self.array.ndim,
            unique=True,
        )
        axes = self.data.draw(places)
        self.array = np.expand_dims(self.array, tuple(axes))
        negative = self.opset >= 11 and self.pick([True, False])
        self.axes("Unsqueeze", [axis - rank if negative else axis for axis in axes])

    def squeeze(self) -> None:
        ones = [axis for axis, size in enumerate(self.array.shape) if size == 1]
        if not ones:
            return
        if self.pick([True, False]):
            self.array = np.squeeze(self.array)
            self.value = self.node("Squeeze", self.value)
            return
        chosen = self.data.draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
        self.array = np.squeeze(self.array, tuple(chosen))
        self.axes("Squeeze", chosen)

    def flatten(self) -> None:
        axis = self.number(0, self.array.ndim)
        self.array = self.array.reshape(math.prod(self.array.shape[:axis]), -1)
        self.value = self.node("Flatten", self.value, axis=axis)

    def slice(self) -> None:
        if self.array.ndim == 0:
            return
        axis = self.number(0, self.array.ndim - 1)
        start, end = self.number(-2, 1), self.pick([2, 3, 2**31 - 1, 2**63 - 1])
        window = [slice(None)] * self.array.ndim
        window[axis] = slice(start, end)
        if 0 in self.array[tuple(window)].shape:
            return
        self.array = self.array[tuple(window)]
        if self.opset < 10:
            self.value = self.node("Slice", self.value, starts=[start], ends=[end], axes=[axis])
        else:
            bounds = [self.constant([number]) for number in (start, end, axis)]
            self.value = self.node("Slice", self.value, *bounds)

    def cast(self) -> None:
        dtype = self.pick([np.float32, np.float64, np.float16, np.int32, np.int64, np.int8])
        self.array = self.array.astype(dtype)
        self.value = self.node(
            "Cast", self.value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )

    def expand(self) -> None:
        shape = [self.pick([1, size]) for size in self.array.shape]
        self.value = self.node(
            "Expand", self.value, self.constant(shape[self.number(0, len(shape)) :])
        )

    def pad(self) -> None:
        pads = [0] * (2 * self.array.ndim)
        if self.array.dtype != np.float32 or self.array.ndim == 0:
            return
        if self.opset < 11:
            self.value = self.node("Pad", self.value, pads=pads)
        else:
            self.value = self.node("Pad", self.value, self.constant(pads))

    def neutral(self) -> None:
        op_type, number = self.pick([("Mul", 1), ("Div", 1), ("Sub", 0), ("Add", 0)])
        if self.array.dtype not in (np.float32, np.float64, np.int32, np.int64):
            return
        shape = [1] * self.number(0, 2)
        self.array = self.array + np.zeros(shape, self.array.dtype)
        constant = self.constant(np.full(shape, number), self.array.dtype.type)
        self.value = self.node(op_type, self.value, constant)

    def identity(self) -> None:
        floating = self.array.dtype.kind == "f"
        self.value = self.node(self.pick(["Identity"] + ["Dropout"] * floating), self.value)

    STEPS = "reshape transpose unsqueeze squeeze flatten slice cast expand pad neutral identity"

    def grow(self) -> None:
        """Append one operator at random."""
        getattr(self, self.pick(self.STEPS.split()))()
        if self.number(0, 5) == 0 and self.value != "x":
            self.outputs.append(self.value)

    def model(self, dims: tuple[int, ...]) -> ir.Model:
        """Return the model; some sizes of its input are symbols."""
        names = [self.pick([size, f"d{axis}"]) for axis, size in enumerate(dims)]
        outputs = [
            helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(self.outputs)
        ]
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, names)],
            outputs,
            self.initializers,
        )
        opset = helper.make_opsetid("", self.opset)
        return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=8))


@given(st.data())
def test_random_chains_keep_their_outputs(data: st.DataObject) -> None:
    chain = Chain(data)
    dims = chain.array.shape
    for _ in range(chain.number(2, 8)):
        chain.grow()
    if chain.value == "x":
        chain.identity()
    chain.outputs.append(chain.value)
    before = chain.model(dims)
    x = np.arange(math.prod(dims)).reshape(dims).astype(np.float32)
    try:
        with session(before) as running:
            expected = running.run({"x": x})
    except BurnishError:  # the runtime, too, guesses sizes that are not known
        hypothesis.reject()
    after = before.clone()
    note(ir.to_onnx_text(before))
    first = run_pass("cleanup", after)
    note(ir.to_onnx_text(after))
    assert after.graph.num_nodes() <= before.graph.num_nodes()
    with session(after) as running:
        actual = running.run({"x": x})
    assert list(expected) == list(actual)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)
    assert not rewrites(run_pass("cleanup", after)), f"after {rewrites(first)}"


# --- what is not computed ------------------------------------------------------------------------


def test_metadata_and_documentation_survive() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> "
        "{ a = Identity(w)  b = Add(x, a)  c = Identity(b)  y = Relu(c) }"
    )
    model.metadata_props["character"] = "abc"
    model.producer_name, model.domain, model.doc_string = "someone", "org.example", "a model"
    model.graph.metadata_props["g"] = "1"
    model.graph.doc_string = "a graph"
    for node in model.graph:
        node.metadata_props["node"] = node.op_type
        node.doc_string = f"a {node.op_type}"
    model.graph.outputs[0].metadata_props["value"] = "y"
    run_pass("cleanup", model)
    assert model.metadata_props == {"character": "abc"}
    assert (model.producer_name, model.domain) == ("someone", "org.example")
    assert model.doc_string == "a model"
    assert model.graph.metadata_props == {"g": "1"}
    assert model.graph.doc_string == "a graph"
    assert [(node.metadata_props, node.doc_string) for node in model.graph] == [
        ({"node": "Add"}, "a Add"),
        ({"node": "Relu"}, "a Relu"),
    ]
    assert model.graph.outputs[0].metadata_props == {"value": "y"}


def test_a_replacement_inherits_the_metadata_of_what_it_replaces() -> None:
    model = parse(
        "g (float[2,3] x) => (y) "
        "{ a = Transpose<perm = [1, 0]>(x)  b = Flatten<axis = 2>(a)  c = Flatten<axis = 0>(b) "
        "y = Relu(c) }"
    )
    for node in model.graph:
        node.metadata_props["scope"] = "layer1"
    run_pass("cleanup", model)
    assert [node.op_type for node in model.graph] == ["Transpose", "Reshape", "Relu"]
    assert all(node.metadata_props == {"scope": "layer1"} for node in model.graph)


def test_the_same_model_gives_the_same_bytes() -> None:
    text = (
        "g (float[N,3] x) => (y) <int64[1] i = {0}, int64[1] three = {3}, float[3] w = {1, 2, 3}, "
        "float[3] v = {1, 2, 3}> { s = Shape(x)  n = Gather(s, i)  t = Concat<axis = 0>(n, three) "
        "a = Reshape(x, t)  b = Add(a, w)  c = Add(a, v)  d = Exp(v)  e = Mul(c, d) "
        "y = Mul(b, e) }"
    )
    written = []
    for _ in range(2):
        model = parse(text)
        run_pass("cleanup", model)
        written.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert written[0] == written[1]


@pytest.mark.slow
def test_cost_per_node_does_not_grow() -> None:
    def seconds_per_node(count: int) -> float:
        body = (
            "i{0} = Identity(y{0})  s{0} = Shape(i{0})  r{0} = Reshape(i{0}, s{0}) "
            "a{0} = Transpose<perm = [1, 0]>(r{0})  b{0} = Transpose<perm = [1, 0]>(a{0}) "
            "e{0} = Exp(b{0})  f{0} = Exp(b{0})  w{0} = Constant<value = float {{{0}.0}}>() "
            "v{0} = Sqrt(w{0})  d{0} = Sin(e{0})  u{0} = Add(f{0}, v{0})  y{1} = Mul(e{0}, u{0})"
        )
        nodes = "\n".join(body.format(index, index + 1) for index in range(count // 12))
        model = parse(f"g (float[N,4] y0) => (y{count // 12}) {{ {nodes} }}")
        started = time.perf_counter()
        run_pass("cleanup", model)
        return (time.perf_counter() - started) / count

    seconds_per_node(120)  # imports
    assert seconds_per_node(24_000) < 3 * seconds_per_node(1_200)
