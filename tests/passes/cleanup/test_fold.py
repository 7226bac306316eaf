# SPDX-License-Identifier: Apache-2.0
"""Constant folding: what is computed, what is not and why, and how little it may cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.passes.cleanup import evaluate, numpy_table
from burnish.passes.cleanup.fold import Fold
from burnish.passes.constant import as_array
from burnish.testing import (
    assert_refuses,
    assert_same_outputs,
    parse,
    refusals,
    rewrites,
    run_pass,
)


def op_types(model: ir.Model) -> list[str]:
    """Return the operators of all nodes, inner graphs included."""
    return [node.op_type for node in model.graph.all_nodes()]


def test_a_constant_chain_becomes_one_initializer() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> "
        "{ a = Add(w, w)  b = Sqrt(a)  c = Sigmoid(b)  y = Mul(x, c) }"
    )
    after = parse(
        "g (float[2] x) => (float[2] y) { y = Mul(x, c) }",
        c=(1 / (1 + np.exp(-np.sqrt([2, 4])))).astype(np.float32),
    )
    original = before.clone()
    run_pass("fold", before)
    assert op_types(before) == ["Mul"]
    assert set(before.graph.initializers) == {"c"}
    assert_same_outputs(original, before)
    assert_same_outputs(after, before)


def test_constant_nodes_become_initializers_that_keep_their_names() -> None:
    before = parse(
        "g (float[2] x) => (float[2] y) "
        "{ w = Constant<value_floats = [1.0, 2.0]>()  i = Constant<value_int = 1>() "
        "s = Constant<value_ints = [2]>()  a = Mul(x, w)  b = Reshape(a, s) "
        "c = Gather(b, i)  y = Add(b, c) }"
    )
    original = before.clone()
    ctx = run_pass("fold", before)
    assert rewrites(ctx) == {"lift-constant": 3}
    assert set(before.graph.initializers) == {"w", "i", "s"}
    assert_same_outputs(original, before)


def test_shapes_are_folded_as_far_as_they_are_known() -> None:
    before = parse(
        "g (float[N,3,4] x) => (int64[2] y, int64 size) <int64[2] i = {1, 2}, int64 j = {1}> "
        "{ s = Shape(x)  a = Gather(s, i)  b = Gather(s, j)  y = Mul(a, b) "
        "z = Transpose(a)  size = ReduceProd<keepdims = 0>(z) }"
    )
    run_pass("fold", before)
    assert op_types(before) == ["Identity", "Identity"]
    values = [node.inputs[0].const_value.numpy() for node in before.graph]  # type: ignore[union-attr]
    assert [value.tolist() for value in values] == [[9, 12], 12]


def test_shape_with_start_and_end() -> None:
    before = parse(
        "g (float[N,3,4] x) => (y) { s = Shape<start = 1, end = -1>(x)  y = Identity(s) }"
    )
    run_pass("fold,simplify", before)
    (identity,) = before.graph
    assert identity.inputs[0].const_value.numpy().tolist() == [3]  # type: ignore[union-attr]


def test_an_initializer_that_is_an_input_is_no_constant() -> None:
    before = parse("g (float[2] x, float[2] w = {1, 2}) => (y) { a = Neg(w)  y = Add(x, a) }")
    assert not rewrites(run_pass("fold", before))


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("RandomNormalLike(w)", "it is random"),
        ("RandomUniformLike(w)", "it is random"),
        ("Bernoulli(w)", "it is random"),
        ("Dropout(w, half, yes)", "it is random"),
        ("QuantizeLinear(w, half)", "it belongs to a quantized model"),
        ("DequantizeLinear(q, half)", "it belongs to a quantized model"),
        ("Div(q, zero)", "a whole-number division that may fail"),
        ("Mod(q, zero)", "a whole-number division that may fail"),
        ("Expand(w, many)", "a large array computed from little"),
        ("Tile(w, many)", "a large array computed from little"),
        ("ConstantOfShape(many)", "a large array computed from little"),
        ("ConstantOfShape(most)", "the result is larger than the budget"),
        ("Range(zero, big, one)", "a large array computed from little"),
    ],
)
def test_is_refused(expression: str, reason: str) -> None:
    before = parse(
        f"g (float[2] x) => (y, x2) <float[2] w = {{1, 2}}, int32 q = {{1}}, int32 zero = {{0}}, "
        "int32 one = {1}, int32 big = {1000000}, float half = {0.5}, bool yes = {1}, "
        f"int64[1] many = {{100000}}, int64[1] most = {{100000000000}}> "
        f"{{ a = {expression.replace('Expand(w', 'Expand(half')}  y = Identity(a)  x2 = Abs(x) }}"
    )
    assert_refuses("fold", before, reason)


@pytest.mark.parametrize(("operator", "wanted"), [("Div", 8), ("Mod", 1)])
def test_whole_numbers_stored_as_bytes_are_divided(operator: str, wanted: int) -> None:
    model = parse(
        "g (int64[2] x) => (y) <int64 a = {57}, int64 b = {7}> "
        f"{{ c = {operator}(a, b)  y = Add(x, c) }}"
    )
    for value in model.graph.initializers.values():  # as files have it; its bytes have an order
        assert value.const_value is not None
        proto = onnx.numpy_helper.from_array(value.const_value.numpy(), value.name)
        value.const_value = ir.serde.deserialize_tensor(proto)
    run_pass("fold", model)
    (add,) = model.graph
    assert as_array(add.inputs[1]) == wanted


def test_a_large_array_that_shrinks_again_is_folded() -> None:
    before = parse(
        "g (float[1] x) => (y) <float one = {1}, int64[1] many = {100000}> "
        "{ a = Expand(one, many)  s = ReduceSum<keepdims = 0>(a)  y = Add(x, s) }"
    )
    original = before.clone()
    run_pass("fold", before)
    assert op_types(before) == ["Add"]
    assert_same_outputs(original, before)


def test_small_inputs_of_a_large_result_are_folded() -> None:
    before = parse(
        "g (float[100001] x) => (y) <float one = {1}, int64[1] n = {100000}, int64[1] i = {1}> "
        "{ s = Add(n, i)  a = Expand(one, s)  y = Add(x, a) }"
    )
    run_pass("fold", before)
    assert op_types(before) == ["Expand", "Add"]


# 400 kB of the same number, where a linear operator has its weights.
FILLS = {
    "MatMul": ("float[2,100] x", "float[2,1000] y", "[2] s = {100, 1000}", "y = MatMul(x, w)"),
    "Gemm, transposed": (
        "float[2,100] x",
        "float[2,1000] y",
        "[2] s = {1000, 100}",
        "t = Transpose(w) y = Gemm(x, t)",
    ),
    "Conv": (
        "float[1,100,5,5] x",
        "float[1,1000,5,5] y",
        "[4] s = {1000, 100, 1, 1}",
        "y = Conv(x, w)",
    ),
}


def fill(case: str) -> ir.Model:
    """Return a model whose weights are a ConstantOfShape."""
    given, wanted, size, node = FILLS[case]
    return parse(
        f"g ({given}) => ({wanted}) <int64{size}> "
        f"{{ w = ConstantOfShape<value = float[1] {{0.5}}>(s) {node} }}"
    )


@pytest.mark.parametrize("case", FILLS)
def test_a_fill_in_the_place_of_weights_is_one(case: str) -> None:
    model = fill(case)
    original = model.clone()
    ctx = run_pass("fold", model)
    assert len(op_types(model)) == 1
    assert not ctx.warnings
    assert_same_outputs(original, model)


def test_fills_in_the_place_of_weights_are_bounded() -> None:
    reason = "constant fills used as weights take more than the budget"
    assert_refuses(Fold(weights=100_000), fill("MatMul"), reason)


def test_large_fills_in_the_place_of_weights_are_reported() -> None:
    ctx = run_pass(Fold(budget=100_000), fill("MatMul"))
    assert ctx.warnings == [
        "constant fills are used as weights; written out they take up to 0.4 MB"
    ]


def weights(dtype: str, count: int, nodes: str) -> ir.Model:
    """Return a model with a weight `w` of some size, from which nodes compute `a`."""
    text = f"g (float[1] x) => (y) {{ {nodes}  y = Mul(x, a) }}"
    return parse(text, w=np.ones(count, dtype))


def test_a_weight_stored_in_fewer_bits_stays_packed() -> None:
    model = weights("float16", 100_000, "a = Cast<to = 1>(w)")
    assert_refuses("fold", model, "stored in fewer bits")


def test_so_does_what_is_computed_from_it() -> None:
    model = weights("float16", 100_000, "n = Neg(w)  a = Cast<to = 1>(n)")
    assert "stored in fewer bits" in str(refusals(run_pass("fold", model)))
    assert op_types(model) == ["Cast", "Mul"]


def test_a_weight_that_only_changes_its_layout_is_folded() -> None:
    model = weights("float", 100_000, "a = Neg(w)")
    run_pass("fold", model)
    assert op_types(model) == ["Mul"]


def test_the_budget_counts_what_is_added() -> None:
    # w is used elsewhere too, so the result comes on top of it.
    model = weights("float", 100_000, "a = Neg(w)")
    extra = ir.Node("", "Abs", [model.graph.initializers["w"]], num_outputs=1)
    extra.outputs[0].name = "z"
    model.graph.insert_before(model.graph.node(0), extra)
    model.graph.outputs.append(extra.outputs[0])
    assert_refuses(Fold(budget=100_000), model.clone(), "the result is larger than the budget")
    run_pass(Fold(budget=2**20), model)
    assert op_types(model) == ["Identity", "Mul"]


def test_folds_in_inner_graphs_and_from_outside_them() -> None:
    before = parse(
        """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            v = Neg(w)
            y = If(c) <
                then_branch = t () => (float[2] a) { b = Abs(v)  d = Exp(b)  a = Add(x, d) },
                else_branch = e () => (float[2] f) { f = Constant<value_floats = [1.0, 2.0]>() }
            >
        }"""
    )
    original = before.clone()
    run_pass("fold", before)
    assert op_types(before) == ["If", "Add", "Constant"]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.ones(2, np.float32)}
        assert_same_outputs(original, before, feeds=feeds)


def test_folds_in_functions_into_constant_nodes() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]>
        f (x) => (y) {
            one = Constant<value_floats = [1.0, 2.0]>()
            a = Add(one, one)  b = Erf(a)  y = Mul(x, b)
        }"""
    )
    original = before.clone()
    run_pass("fold", before)
    (function,) = before.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Mul"]
    assert_same_outputs(original, before)


def test_attributes_given_by_a_caller_are_not_known() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.f<alpha = 2.0>(x) }
        <domain: "local", opset_import: ["" : 21]>
        f <alpha> (x) => (y) {
            one = Constant<value_floats = [-1.0, 2.0]>()
            a = LeakyRelu<alpha: float = @alpha>(one)  y = Mul(x, a)
        }"""
    )
    assert not rewrites(run_pass("fold", before))


def test_one_operator_without_a_kernel_does_not_keep_the_others_from_folding() -> None:
    before = parse(
        "g (float[2] x) => (y, u) <float[2] w = {1, 2}, bfloat16[2] h = {1, 2}> "
        "{ a = Exp(w)  b = Erf(h)  y = Mul(x, a)  u = Cast<to = 1>(b) }"
    )
    ctx = run_pass("fold", before)
    assert "Exp" not in op_types(before)
    assert "the runtime cannot compute it" in refusals(ctx)["fold"]


def test_operator_sets_of_old() -> None:
    before = parse(
        '<ir_version: 4, opset_import: ["" : 9]> g (float[2,3] x) => (float[4] y) '
        "<float[1,4] w = {1, 2, 3, 4}> "
        "{ s = Squeeze<axes = [0]>(w)  c = Slice<starts = [1], ends = [9], axes = [0]>(s) "
        "m = ReduceMax(c)  u = Unsqueeze<axes = [0]>(m)  y = Add(s, u) }"
    )
    original = before.clone()
    run_pass("fold", before)
    assert op_types(before) == ["Identity"]
    assert_same_outputs(original, before)


def test_a_model_without_the_default_operator_set_is_left_alone() -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["ai.onnx.ml" : 3]> g () => (float[2] y) '
        "<float[2] w = {1, 2}> { y = ai.onnx.ml.Binarizer(w) }"
    )
    assert not rewrites(run_pass("fold", model))


def test_an_external_weight_is_viewed_not_read(tmp_path: Path) -> None:
    """Transposing a mapped weight costs no memory until it is written."""
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "w.bin").write_bytes(data.tobytes())
    model = parse("g (float[2] x, float[2,3] w) => (y) { t = Transpose(w)  y = MatMul(t, x) }")
    w = model.graph.inputs.pop()
    w.const_value = ir.ExternalTensor(
        "w.bin",
        0,
        data.nbytes,
        ir.DataType.FLOAT,
        shape=ir.Shape([2, 3]),
        name="w",
        base_dir=tmp_path,
    )
    model.graph.register_initializer(w)
    original = model.clone()
    run_pass("fold", model)
    (folded,) = model.graph.initializers.values()
    assert folded.const_value is not None
    array = folded.const_value.numpy()
    assert array.base is not None
    assert not array.flags.owndata
    assert_same_outputs(original, model)


def test_a_large_mapped_weight_is_copied_only_while_it_is_read(tmp_path: Path) -> None:
    data = np.arange(1024 * 512, dtype=np.float32).reshape(1024, 512)
    (tmp_path / "w.bin").write_bytes(data.tobytes())
    model = parse(
        "g (float[1024] x, float[1024,512] w) => (y) { t = Transpose(w)  y = MatMul(t, x) }"
    )
    w = model.graph.inputs.pop()
    w.const_value = ir.ExternalTensor(
        "w.bin",
        0,
        data.nbytes,
        ir.DataType.FLOAT,
        shape=ir.Shape(data.shape),
        name="w",
        base_dir=tmp_path,
    )
    model.graph.register_initializer(w)
    original = model.clone()
    run_pass("fold", model)
    (folded,) = model.graph.initializers.values()
    assert isinstance(folded.const_value, ir.LazyTensor)
    for _ in range(2):
        np.testing.assert_array_equal(folded.const_value.numpy(), data.T)
    assert_same_outputs(original, model)


# --- NumPy against the runtime -------------------------------------------------------------------

INTS = np.array([[-7, 7, 3], [2, -1, 100]], np.int64)
OTHER = np.array([[2, -2, 3], [5, 4, -7]], np.int64)
FLOATS = np.array([[0.0, -0.0, 1.5], [-2.5, 1e30, 3.25]], np.float32)
AXIS, SHAPE = np.array([1]), np.array([3, -1])

CALLS = [
    ("Abs", [FLOATS], {}),
    ("Add", [FLOATS, FLOATS[:1]], {}),
    ("And", [INTS > 0, OTHER > 0], {}),
    ("Cast", [FLOATS[:1]], {"to": ir.DataType.INT64}),
    ("Cast", [INTS], {"to": ir.DataType.INT8}),
    ("Cast", [FLOATS], {"to": ir.DataType.BOOL}),
    ("Cast", [FLOATS], {"to": ir.DataType.FLOAT16}),
    ("CastLike", [INTS, FLOATS], {}),
    ("Ceil", [FLOATS], {}),
    ("Concat", [INTS, OTHER], {"axis": -1}),
    ("ConstantOfShape", [np.array([2, 0])], {}),
    ("Div", [INTS, OTHER], {}),
    ("Div", [FLOATS, FLOATS + 1], {}),
    ("Equal", [INTS, OTHER], {}),
    ("Expand", [FLOATS, np.array([2, 1, 1])], {}),
    ("Flatten", [FLOATS], {"axis": -1}),
    ("Floor", [FLOATS], {}),
    ("Gather", [FLOATS, np.array([[-1, 0]])], {"axis": 1}),
    ("Greater", [FLOATS, FLOATS.T.reshape(2, 3)], {}),
    ("GreaterOrEqual", [INTS, OTHER], {}),
    ("Identity", [FLOATS], {}),
    ("Less", [FLOATS, -FLOATS], {}),
    ("LessOrEqual", [INTS, OTHER], {}),
    ("Max", [INTS, OTHER, -INTS], {}),
    ("Min", [INTS, OTHER], {}),
    ("Mod", [INTS, OTHER], {}),
    ("Mod", [INTS, OTHER], {"fmod": 1}),
    ("Mul", [FLOATS, FLOATS[:, :1]], {}),
    ("Neg", [FLOATS], {}),
    ("Not", [INTS > 0], {}),
    ("Or", [INTS > 0, OTHER > 0], {}),
    ("Range", [np.array(7), np.array(-4), np.array(-3)], {}),
    ("ReduceMax", [INTS, AXIS], {"keepdims": 0}),
    ("ReduceMin", [INTS], {}),
    ("ReduceProd", [INTS, AXIS], {}),
    ("ReduceSum", [INTS, np.array([], np.int64)], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [INTS, -AXIS], {}),
    ("Reshape", [FLOATS, SHAPE], {}),
    ("Reshape", [FLOATS, np.array([0, 3, 1])], {}),
    ("Shape", [FLOATS], {"start": -1}),
    ("Size", [FLOATS], {}),
    ("Slice", [INTS, np.array([-1]), np.array([-(2**31)]), AXIS, np.array([-2])], {}),
    ("Slice", [INTS, np.array([1, 0]), np.array([2**40, -1])], {}),
    ("Sqrt", [np.abs(FLOATS)], {}),
    ("Squeeze", [FLOATS[:1], np.array([0])], {}),
    ("Squeeze", [FLOATS[:1]], {}),
    ("Sub", [FLOATS, FLOATS[:1]], {}),
    ("Tile", [INTS, np.array([2, 1])], {}),
    ("Transpose", [FLOATS], {}),
    ("Unsqueeze", [FLOATS, np.array([0, -1])], {}),
    # The runtime's Where loses the sign of a zero, which NumPy keeps.
    ("Where", [INTS > 0, FLOATS + 1, FLOATS[:1] + 1], {}),
    ("Xor", [INTS > 0, OTHER > 0], {}),
]


def test_every_operator_of_the_table_is_compared() -> None:
    assert {call[0] for call in CALLS} == set(numpy_table.TABLE)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"), CALLS, ids=lambda item: str(item)[:24]
)
def test_numpy_gives_the_bits_of_the_runtime(
    op_type: str, inputs: list[np.ndarray], attributes: dict[str, int]
) -> None:
    tensors = {
        ir.Value(name=f"x{index}"): ir.tensor(np.array(array, order="C"))
        for index, array in enumerate(inputs)
    }
    attrs = [ir.convenience.convert_attribute(name, item) for name, item in attributes.items()]
    node = ir.Node("", op_type, list(tensors), attrs, num_outputs=1)
    node.outputs[0].name = "y"
    (ours,) = evaluate.evaluate(node, inputs, 21)
    (theirs,) = evaluate.evaluate_together([node], tensors, node.outputs, {"": 21}).values()
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("Cast", [np.array([1e20, np.nan], np.float32)], {"to": ir.DataType.INT32}),
        ("Div", [np.array([1]), np.array([0])], {}),
        ("Div", [np.array([-(2**63)]), np.array([-1])], {}),
        ("Sqrt", [np.array([-1.0], np.float32)], {}),
        ("Range", [np.array(0.0), np.array(1.0), np.array(0.1)], {}),
        ("Exp", [FLOATS], {}),
        ("Gather", [FLOATS, np.array([9])], {}),
    ],
    ids=lambda item: str(item)[:24],
)
def test_numpy_leaves_the_rest_to_the_runtime(
    op_type: str, inputs: list[np.ndarray], attributes: dict[str, int]
) -> None:
    attrs = [ir.convenience.convert_attribute(name, item) for name, item in attributes.items()]
    node = ir.Node("", op_type, [ir.Value(name="x") for _ in inputs], attrs, num_outputs=1)
    with pytest.raises(numpy_table.Undecided):
        evaluate.evaluate(node, inputs, 21)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        # The start is clamped into the axis, which NumPy's is not when it goes backwards.
        ("c = Slice(w, start, end, zero, back)", {"start": [-5], "end": [-9]}),
        ("c = Slice(w, start, end, zero, back)", {"start": [9], "end": [-3]}),
        ("c = Div(w, start)", {"start": [np.iinfo(np.int64).min], "end": [0]}),
    ],
)
def test_what_numpy_does_otherwise_is_as_the_runtime_does_it(
    body: str, constants: dict[str, list[int]]
) -> None:
    model = parse(
        f"g (int64[1] x) => (int64[K] y) <int64[3] w = {{1, -2, 3}}, int64[1] zero = {{0}}, "
        f"int64[1] back = {{-1}}> {{ {body} y = Concat<axis=0>(c, x) }}",
        **{name: np.array(numbers) for name, numbers in constants.items()},
    )
    original = model.clone()
    run_pass(Fold(), model)
    assert_same_outputs(original, model)


@pytest.mark.parametrize(
    "node",
    [
        "Cast<to=8>(w)",
        'ai.onnx.ml.LabelEncoder<keys_floats=[1.0, 2.0], values_strings=["a", "b"]>(w)',
    ],
)
def test_numbers_do_not_become_strings(node: str) -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 4]> '
        f"g () => (string[2] y) <float[2] w = {{1, 2}}> {{ y = {node} }}"
    )
    assert_refuses(Fold(), model, "its output is not a tensor of numbers")
