# SPDX-License-Identifier: Apache-2.0
"""Order, dimensions, node names, opset imports and constants are put right, with a note each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.frontends import Loaded, load

HEAD = '<ir_version: 10, opset_import: ["": 21]>'


def proto(text: str, head: str = HEAD) -> onnx.ModelProto:
    return onnx.parser.parse_model(head + text)


def dims(value: ir.Value) -> list[int | str | None]:
    assert value.shape is not None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


# --- order -----------------------------------------------------------------------------------


def test_nodes_are_sorted() -> None:
    loaded = load(proto("g (float[2] x) => (float[2] y) { [b] y = Neg(t) [a] t = Abs(x) }"))
    assert [node.name for node in loaded.model.graph] == ["a", "b"]
    assert loaded.notes == ("the nodes were not in the order of execution: sorted",)


def test_nodes_in_order_are_left_alone() -> None:
    text = "g (float[2] x) => (float[2] y) { [b] a = Neg(x) [a] b = Abs(x) [c] y = Add(b, a) }"
    loaded = load(proto(text))
    assert [node.name for node in loaded.model.graph] == ["b", "a", "c"]
    assert loaded.notes == ()


def test_a_subgraph_that_uses_what_is_made_below() -> None:
    loaded = load(
        proto("""g (bool c, float[2] x) => (float[2] y) {
            [if] y = If(c) <then_branch = a () => (float[2] u) { [u] u = Neg(t) },
                            else_branch = b () => (float[2] v) { [v] v = Abs(t) }>
            [t] t = Add(x, x)
        }""")
    )
    assert [node.name for node in loaded.model.graph] == ["t", "if"]


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InputError, match="the nodes form a cycle"):
        load(proto("g (float[2] x) => (float[2] y) { y = Add(x, t) t = Neg(y) }"))


# --- dimensions ------------------------------------------------------------------------------


def test_false_names_of_input_dimensions_become_different_ones() -> None:
    """A model whose inputs "?" need not be equal: [?, ?] @ [?, 5]."""
    model = proto("g (float[N,N] a, float[N,5] b) => (float[N,N] y) { [n] y = MatMul(a, b) }")
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "?"
    loaded = load(model)
    a, b = loaded.model.graph.inputs
    assert (dims(a), dims(b)) == (["a_dim_0", "a_dim_1"], ["b_dim_0", 5])
    assert dims(loaded.model.graph.outputs[0]) == [None, None]
    assert loaded.notes == (
        "3 input dimensions without a name named: 'a_dim_0', 'a_dim_1', 'b_dim_0'",
    )
    with onnxruntime.session(loaded.model) as session:
        a_, b_ = np.ones((2, 3), np.float32), np.ones((3, 5), np.float32)
        assert session.run({"a": a_, "b": b_})["y"].shape == (2, 5)


@pytest.mark.parametrize("name", ["", "?", "None", "-1", "unknown"])
def test_what_counts_as_no_name(name: str) -> None:
    model = proto("g (float[N,M] x) => (float[N,M] y) { [n] y = Neg(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    assert dims(load(model).model.graph.inputs[0]) == ["x_dim_0", "M"]


def test_anonymous_and_negative_dimensions() -> None:
    model = proto("g (float[N,M,7] x) => (float[N,M,7] y) { [n] y = Neg(x) }")
    first, second, _ = model.graph.input[0].type.tensor_type.shape.dim
    first.Clear()
    second.dim_value = -1
    assert dims(load(model).model.graph.inputs[0]) == ["x_dim_0", "x_dim_1", 7]


def test_new_names_avoid_those_taken_and_are_identifiers() -> None:
    model = proto(
        """g (float[N] "1/x:0", float[x_dim_0] x, float[N] z) => (float[x_dim_0] y)
                  { [n] y = Neg(x) }""".replace('"1/x:0"', "w")
    )
    model.graph.input[0].name = "1/x:0"
    model.graph.input[2].name = "x.dim_0"
    for i in (0, 2):
        model.graph.input[i].type.tensor_type.shape.dim[0].dim_param = "?"
    inputs = load(model).model.graph.inputs
    assert [dims(value) for value in inputs] == [["_1_x_0_dim_0"], ["x_dim_0"], ["x_dim_0_dim_0"]]


def test_names_of_dimensions_that_mean_something_stay() -> None:
    loaded = load(proto("g (float[batch,N] x) => (float[batch,N] y) { [n] y = Neg(x) }"))
    assert dims(loaded.model.graph.inputs[0]) == ["batch", "N"]
    assert loaded.notes == ()


def test_names_that_cannot_be_computed_with_are_replaced_everywhere() -> None:
    model = proto("g (float[N,M] x) => (float[N,M] y, float[K] z) { y = Neg(x) z = Foo(x) }")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch:0"
    model.graph.output[1].type.tensor_type.shape.dim[0].dim_param = "Concatonnx::Reshape_205_dim_0"
    loaded = load(model)
    shapes = [dims(value) for value in (*loaded.model.graph.inputs, *loaded.model.graph.outputs)]
    assert shapes == [["batch_0", "M"], ["batch_0", "M"], ["Concatonnx__Reshape_205_dim_0"]]
    (note,) = [note for note in loaded.notes if "dimension" in note]
    assert note == "1 input dimension with a name that is no formula renamed: 'batch_0'"


@pytest.mark.parametrize("name", ["2nd", "a[0]", "/model/x_dim_0", "a b", "f(a)", "a +", "été!"])
def test_what_is_no_formula(name: str) -> None:
    with pytest.raises(ValueError, match="expression"):
        ir.SymbolicDim(name).free_symbols()
    model = proto("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    (dim,) = dims(load(model).model.graph.inputs[0])
    assert isinstance(dim, str)
    assert dim.isidentifier()


@pytest.mark.parametrize(
    "name", ["x.0", "2*a", "a//2 + -b", "floor((a - 1)/2) + 3", "Max(1, Min(a, b))", "été", "for"]
)
def test_formulas_stay(name: str) -> None:
    ir.SymbolicDim(name).free_symbols()
    model = proto("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    loaded = load(model)
    assert dims(loaded.model.graph.inputs[0]) == [name]
    assert loaded.notes == ()


# --- node and value names --------------------------------------------------------------------


def test_nameless_nodes_are_named_after_what_they_make() -> None:
    loaded = load(
        proto("g (float[2] x) => (float[2] y) { t = Neg(x) [Abs_y] u = Neg(t) y = Abs(u) }")
    )
    assert [node.name for node in loaded.model.graph] == ["Neg_t", "Abs_y", "Abs_y_1"]
    assert loaded.notes == ()


def test_node_names_given_twice_are_numbered() -> None:
    text = "g (float[2] x) => (float[2] y) { [n] t = Neg(x) [n] u = Neg(t) [n_1] y = Abs(u) }"
    loaded = load(proto(text))
    assert [node.name for node in loaded.model.graph] == ["n", "n_2", "n_1"]
    assert loaded.notes == ("node names given twice were numbered: 'n'",)


def test_optional_outputs_left_out_stay_so() -> None:
    text = 'g (float[1,1,4] x) => (int64[1,1,2] i) { [p] "", i = MaxPool<kernel_shape=[3]>(x) }'
    model = proto(text.replace('""', "v"))
    model.graph.node[0].output[0] = ""
    assert load(model).model.graph[0].outputs[0].name == ""


def test_values_of_one_name_in_a_model_in_memory() -> None:
    """As torch's dynamo exporter makes them: the objects say which is meant."""
    model = ir.serde.deserialize_model(
        proto("g (float[2] x) => (float[2] y) { [a] t = Neg(x) [b] u = Abs(t) [c] y = Add(u, t) }")
    )
    model.graph[0].outputs[0].name = "y"
    model.graph[1].outputs[0].name = "x"
    loaded = load(model)
    with onnxruntime.session(loaded.model) as session:
        found = session.run({"x": np.array([1, -2], np.float32)})
    np.testing.assert_array_equal(found["y"], [0, 4])
    assert loaded.notes == ("value names given twice were numbered: 'y', 'x'",)


def test_branches_that_share_names() -> None:
    loaded = load(
        proto("""g (bool c, float[2] x) => (float[2] y) {
            [if] y = If(c) <then_branch = a () => (float[2] u) { [n] u = Neg(x) },
                            else_branch = b () => (float[2] u) { [m] u = Abs(x) }>
        }""")
    )
    names = [node.outputs[0].name for node in loaded.model.graph.all_nodes()]
    assert names == ["y", "u", "u_1"]


# --- opsets and constants --------------------------------------------------------------------


def test_domains_without_an_import() -> None:
    model = proto("g (float[2] x) => (float[2] y) { [a] t = com.microsoft.Gelu(x) [b] y = Neg(t) }")
    model.graph.node.add(
        op_type="Binarizer", domain="ai.onnx.ml", name="c", input=["x"], output=["z"]
    )
    loaded = load(model)
    newest = onnx.defs.onnx_ml_opset_version()
    assert loaded.model.opset_imports == {"": 21, "com.microsoft": 1, "ai.onnx.ml": newest}
    assert any("'com.microsoft' was used but not imported: version 1" in n for n in loaded.notes)


def test_ai_onnx_is_the_default_domain() -> None:
    model = proto("g (float[2] x) => (float[2] y) { [n] y = Neg(x) }")
    model.opset_import[0].domain = "ai.onnx"
    assert load(model).model.opset_imports == {"": 21}


def test_no_opset_at_all() -> None:
    model = proto("g (float[2] x) => (float[2] y) { [n] y = Neg(x) }")
    del model.opset_import[:]
    with pytest.raises(InputError, match="no opset version is given"):
        load(model)
    model.ir_version = 2
    assert load(model).model.opset_imports == {"": 1}


def _listed(ir_version: int) -> Loaded:
    head = f'<ir_version: {ir_version}, opset_import: ["": 9]>'
    model = proto(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { [n] y = Add(x, w) }", head
    )
    if "w" not in {value.name for value in model.graph.input}:
        model.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("w", 1, [2]))
    return load(model)


def test_initializers_listed_as_inputs_because_they_had_to_be() -> None:
    loaded = _listed(3)
    assert [value.name for value in loaded.model.graph.inputs] == ["x"]
    assert loaded.model.ir_version == 4
    assert "made constants: 'w'" in loaded.notes[0]
    with onnxruntime.session(loaded.model) as session:
        found = session.run({"x": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(found["y"], [1, 2])


def test_initializers_that_may_be_overridden_stay_inputs() -> None:
    loaded = _listed(8)
    assert [value.name for value in loaded.model.graph.inputs] == ["x", "w"]
    assert loaded.notes == ("1 input with a default, so no constants: 'w'",)
    with onnxruntime.session(loaded.model) as session:
        feeds = {"x": np.zeros(2, np.float32), "w": np.full(2, 7, np.float32)}
        np.testing.assert_array_equal(session.run(feeds)["y"], [7, 7])


def test_initializers_have_the_sizes_they_have() -> None:
    model = proto("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { [n] y = Add(x, w) }")
    declared = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [None])
    model.graph.value_info.append(declared)
    loaded = load(model)
    assert dims(loaded.model.graph.initializers["w"]) == [2]
    assert loaded.notes == ()
