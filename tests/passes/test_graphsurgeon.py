# SPDX-License-Identifier: Apache-2.0
"""A graphsurgeon function runs as a pass, and nothing it did not touch is lost or even read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.graphsurgeon import GraphSurgeon, graphsurgeon
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_same_outputs, parse, rewrites, run_pass


def leaky_to_prelu(graph: gs.Graph) -> gs.Graph:
    """What users write: find, replace, clean up."""
    for node in [node for node in graph.nodes if node.op == "LeakyRelu"]:
        slope = gs.Constant(f"{node.name}_slope", np.array([node.attrs["alpha"]], np.float32))
        graph.layer(
            op="PRelu", name=node.name, inputs=[node.inputs[0], slope], outputs=list(node.outputs)
        )
        node.outputs.clear()
    return graph.cleanup()  # leaves the new node at the end: the pass sorts


def look(graph: gs.Graph) -> None:
    """Read every weight and change none."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            assert tensor.values.shape == tuple(tensor.shape)


def rename(graph: gs.Graph) -> None:
    graph.name = "renamed"


def double_w(graph: gs.Graph) -> None:
    graph.tensors()["w"].values *= 2


def fold(graph: gs.Graph) -> gs.Graph:
    return graph.fold_constants().cleanup()


def fail(graph: gs.Graph) -> None:
    graph.nodes.clear()
    raise RuntimeError("on\npurpose")


def return_text(graph: gs.Graph) -> str:
    return "done"


def make_cycle(graph: gs.Graph) -> None:
    graph.nodes[0].inputs.append(graph.nodes[-1].outputs[0])


NOT_A_FUNCTION = 3


def _rich_model() -> ir.Model:
    """A model with everything that graphsurgeon has no place for."""
    model = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1], producer_name: "me",
            producer_version: "3", domain: "org.example", model_version: 7, doc_string: "a model">
        g (float[N,4] x, bool flag, float[4] shift = {5, 6, 7, 8})
          => (float[N,4] y, seq(float[N,4]) z)
        <float[4] w = {1, 2, 3, 4}, float[2] unused = {1, 1}, float[1] inner = {3},
         float[N,4] s, optional(float[N,4]) o>
        {
          t = local.scale <k = 2.0> (x)
          u = If (flag) <
            then_branch = then () => (float[N,4] a) { p = Add(t, w) a = Mul(p, inner) },
            else_branch = orelse () => (float[N,4] b) { b = Identity(t) }
          >
          v = LeakyRelu <alpha = 0.5> (u)
          s = Add(v, w)
          o = Optional(s)
          r = OptionalGetElement(o)
          y = Add(r, shift)
          c = Constant <value_ints: ints = []> ()
          z = SequenceConstruct(y)
        }
        <opset_import: ["" : 21], domain: "local", doc_string: "a function">
        scale <k> (v) => (r) { c = Constant <value_float: float = @k> ()  r = Mul(v, c) }
        """
    )
    graph = model.graph
    (function,) = model.functions.values()
    then = graph[1].attributes["then_branch"].as_graph()
    model.metadata_props["licence"] = "free"
    for holder in (graph, then, function, *graph, *then, *function):
        holder.metadata_props["origin"] = f"{holder.name}"
        holder.doc_string = f"about {holder.name}"
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values(), then[0].outputs[0]):
        value.metadata_props["origin"] = f"{value.name}"
        value.doc_string = f"about {value.name}"
    graph[2].attributes["alpha"].doc_string = "slope"
    graph[2].name = "leaky"
    graph.initializers["w"].meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "inner"}
    function[1].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _bytes(model: ir.Model) -> bytes:
    proto: onnx.ModelProto = ir.to_proto(model)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


@pytest.mark.parametrize("function", [lambda graph: graph, lambda graph: None, look, gs.Graph.copy])
def test_changing_nothing_is_no_change(function: Callable[[gs.Graph], Any]) -> None:
    model = _rich_model()
    before = _bytes(model)
    graph = model.graph
    ctx = run_pass(graphsurgeon(function), model)
    assert not ctx.reports[0].changed
    assert model.graph is graph
    assert _bytes(model) == before


def test_all_but_the_change_is_as_it_was() -> None:
    model, expected = _rich_model(), _rich_model()
    run_pass(graphsurgeon(rename), model)
    expected.graph.name = "renamed"
    assert _bytes(model) == _bytes(expected)


@pytest.mark.slow
def test_all_but_the_change_is_as_it_was_for_every_operator() -> None:
    from onnx.backend.test.loader import load_model_tests

    cases = load_model_tests(kind="node")
    assert len(cases) > 1800
    for case in cases:
        assert case.model is not None
        model: ir.Model = ir.from_proto(case.model)
        expected = model.clone()
        graphsurgeon(rename).run(model, _context())
        expected.graph.name = "renamed"
        assert _bytes(model) == _bytes(expected), case.name


def test_a_function_does_its_work() -> None:
    model = _rich_model()
    original = model.clone()
    ctx = run_pass(graphsurgeon(leaky_to_prelu), model)
    assert rewrites(ctx) == {"leaky_to_prelu": 1}
    assert [node.op_type for node in model.graph if "Relu" in node.op_type] == ["PRelu"]
    (function,) = model.functions.values()
    assert function.metadata_props["origin"] == "scale"
    assert function[1].outputs[0].dtype == ir.DataType.FLOAT
    # Only the values of the model's own `y` can be fed and fetched as arrays.
    for each in (original, model):
        del each.graph.outputs[1]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    for flag in (True, False):
        assert_same_outputs(original, model, feeds={"x": x, "flag": np.array(flag)})


def test_weights_of_subgraphs_stay_where_they_are() -> None:
    """Graphsurgeon puts a copy of an outer initializer into each subgraph that uses it."""
    model = _rich_model()
    run_pass(graphsurgeon(rename), model)
    assert list(model.graph.initializers) == ["shift", "w", "unused", "inner"]
    then = model.graph[1].attributes["then_branch"].as_graph()
    assert not then.initializers
    assert then[0].inputs[1] is model.graph.initializers["w"]


def test_only_what_is_written_to_is_replaced() -> None:
    model = _rich_model()
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert rewrites(run_pass(graphsurgeon(double_w), model)) == {"double_w": 1}
    after = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert after["w"] is not None
    np.testing.assert_array_equal(after["w"].numpy(), np.array([2, 4, 6, 8], np.float32))
    assert tensors["w"] is not None
    np.testing.assert_array_equal(tensors["w"].numpy(), np.array([1, 2, 3, 4], np.float32))
    assert all(after[name] is tensors[name] for name in tensors if name != "w")


def test_functions_that_run_the_model_meanwhile_see_the_weights() -> None:
    model = parse(
        "g (float[N,2] x) => (float[N,2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> "
        "{ c = Add(a, b)  y = Mul(x, c) }"
    )
    original = model.clone()
    run_pass(graphsurgeon(fold), model)
    assert [node.op_type for node in model.graph] == ["Mul"]
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        (ir.DataType.BFLOAT16, [1.5, -2.0]),
        (ir.DataType.FLOAT16, [1.5, -2.0]),
        (ir.DataType.FLOAT8E4M3FN, [1.5, -2.0]),
        (ir.DataType.INT4, [7, -8]),
        (ir.DataType.BOOL, [True, False]),
    ],
)
def test_dtypes_survive_reading_and_writing(dtype: ir.DataType, array: list[Any]) -> None:
    model = parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    values = np.array(array).astype(dtype.numpy())
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(values, dtype=dtype, name="w")
    weight.type = ir.TensorType(dtype)

    def flip(graph: gs.Graph) -> None:
        constant = graph.tensors()["w"]
        constant.values = constant.values[::-1]

    graphsurgeon(look).run(model, _context())
    assert weight.const_value is model.graph.initializers["w"].const_value
    graphsurgeon(flip).run(model, _context())
    flipped = model.graph.initializers["w"].const_value
    assert flipped is not None
    assert flipped.dtype == dtype
    np.testing.assert_array_equal(flipped.numpy(), values[::-1])


def test_string_constants_survive() -> None:
    model = parse("g (string[1] x) => (string[1] y) <string[1] w> { y = StringConcat(x, w) }")
    text = ir.StringTensor([b"a"], shape=ir.Shape([1]), name="w")
    weight = ir.Value(
        name="w", type=ir.TensorType(ir.DataType.STRING), shape=ir.Shape([1]), const_value=text
    )
    model.graph[0].replace_input_with(1, weight)
    model.graph.initializers.add(weight)

    def shout(graph: gs.Graph) -> None:
        constant = graph.tensors()["w"]
        assert constant.values.tolist() == ["a"]
        constant.values = np.array(["A"], dtype=object)

    run_pass(graphsurgeon(lambda graph: None), model)
    assert model.graph.initializers["w"].const_value is text
    run_pass(graphsurgeon(shout), model)
    shouted = model.graph.initializers["w"].const_value
    assert isinstance(shouted, ir.StringTensor)
    assert list(shouted.string_data()) == [b"A"]


def test_the_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def talk(graph: gs.Graph) -> None:
        gs.logger.G_LOGGER.error("a line")

    run_pass(graphsurgeon(talk), _rich_model())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a line" in captured.err


def test_text_form() -> None:
    made = graphsurgeon(leaky_to_prelu)
    assert str(made) == f"graphsurgeon{{function={__name__}:leaky_to_prelu}}"
    assert Pipeline.parse(str(made)) == Pipeline((made,))
    model = _rich_model()
    assert rewrites(run_pass(str(made), model)) == {"leaky_to_prelu": 1}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fail", "fail failed: RuntimeError: on purpose"),
        ("return_text", "return_text failed: TypeError: it returned a str, not a gs.Graph or None"),
        ("make_cycle", "make_cycle failed: ValueError"),
    ],
)
def test_a_function_that_fails_leaves_the_model_alone(function: str, message: str) -> None:
    model = _rich_model()
    before = _bytes(model)
    with pytest.raises(InputError) as caught:
        run_pass(f"graphsurgeon{{function={__name__}:{function}}}", model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _bytes(model) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graphsurgeon", "option 'function' is needed; give function=module:name"),
        ("graphsurgeon{function=json:dunps}", "has no attribute 'dunps'; did you mean 'dumps'?"),
        (f"graphsurgeon{{function={__name__}:NOT_A_FUNCTION}}", "is a int, not a function"),
    ],
)
def test_a_bad_reference_is_an_error_when_the_pipeline_is_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match="pipeline: ") as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)


def test_disabled_by_the_name_of_the_function() -> None:
    model = _rich_model()
    before = _bytes(model)
    ctx = run_pass(graphsurgeon(rename), model, disable=("rename",))
    assert ctx.reports[0].rules["rename"].skipped == 1
    assert _bytes(model) == before


def _context() -> PassContext:
    return PassContext(Target.parse("cpu"))


_MEASURED = """
import resource, sys
import onnx_ir as ir
from burnish.backends import onnxfile
from burnish.backends.target import Target
from burnish.passes.context import PassContext
from burnish.passes.graphsurgeon import graphsurgeon

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def rename_nodes(graph):
    for index, node in enumerate(graph.nodes):
        node.name = f"n{index}"

model = ir.load(sys.argv[1])
run = graphsurgeon(rename_nodes)
import onnx_graphsurgeon
before = peak()
assert run.run(model, PassContext(Target.parse("cpu"))).changed
print(peak() - before)
"""


def test_weights_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    """200 MB of external weights: the pass takes a few of them in memory, not hundreds."""
    layers, size = 5, 3200
    rows = [f"t{i + 1} = MatMul(t{i}, w{i})" for i in range(layers)]
    model = parse(f"g (float[1,{size}] t0) => (float[1,{size}] t{layers}) {{ {' '.join(rows)} }}")
    for i in range(layers):
        data = np.full((size, size), i, np.float32)
        value = ir.Value(
            name=f"w{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(data.shape),
            const_value=ir.tensor(data, name=f"w{i}"),
        )  # fmt: skip
        model.graph[i].replace_input_with(1, value)
        model.graph.initializers.add(value)
    path = tmp_path / "big.onnx"
    ir.save(model, path, external_data="big.data")
    assert (tmp_path / "big.data").stat().st_size > 200e6
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20e6


def test_is_a_pass() -> None:
    assert isinstance(graphsurgeon(rename), Pass)
    assert GraphSurgeon.lossless
