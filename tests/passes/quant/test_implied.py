# SPDX-License-Identifier: Apache-2.0
"""What a file need not say: whoever reads it knows the same, and the runtime runs the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.onnxfile import save
from burnish.backends.target import Target
from burnish.passes.quant.implied import DropImplied
from burnish.passes.quant.ready import mark_quantized
from burnish.passes.shapes import infer_shapes, shapes_are_inferred
from burnish.testing import assert_same_outputs, parse, rewrites, run_pass

Build = Any

CPU = Target.parse("cpu")

# Sizes halved twice: their formulas grow, and the two summands have those of one value each.
HALVED = """g (float[N,16,H,W] x) => (float[N,16,P,Q] y) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2], dilations = [1, 1], group = 1> (x, u)
    b = Relu(a)
    c = Conv <pads = [1, 1, 1, 1], strides = [1, 1], auto_pad = "NOTSET"> (b, v)
    d = Add(b, c)
    e = Conv <pads = [0, 0, 0, 0], strides = [2, 2]> (d, w)
    y = Sigmoid(e)
}"""


@pytest.fixture
def halved(build: Build) -> ir.Model:
    model: ir.Model = build(HALVED, **dict.fromkeys("uvw", (16, 16, 3, 3)))
    infer_shapes(model)
    return model


def sizes(model: ir.Model) -> dict[str | None, list[int | str | None]]:
    return {
        value.name: [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        for node in model.graph
        for value in node.outputs
        if value.shape is not None
    }


def test_what_inference_gives_back_is_left_out(halved: ir.Model) -> None:
    before, known = halved.clone(), sizes(halved)
    ctx = run_pass(DropImplied(), halved)
    # Computed sizes stay, with short names, the same where they were the same; b, c and d are
    # as large as what they are computed from, which inference knows of b and d alone.
    assert sizes(halved) == {
        "a": ["N", 16, "d0", "d1"],
        "c": ["N", 16, "d0", "d1"],
        "e": ["N", 16, "d2", "d3"],
        "y": ["N", 16, "P", "Q"],
    }
    assert known["c"] == known["a"]
    assert rewrites(ctx) == {"implied-size": 2, "short-size": 4, "implied-attribute": 5}
    assert_same_outputs(before, halved)


def test_what_is_left_out_comes_back(halved: ir.Model, tmp_path: Path) -> None:
    (whole,) = save(halved, tmp_path / "whole.onnx")
    run_pass(DropImplied(), halved)
    named = halved.clone()
    (short,) = save(halved, tmp_path / "short.onnx")
    assert short.stat().st_size < whole.stat().st_size
    inferred = onnx.shape_inference.infer_shapes(onnx.load(short), strict_mode=True)
    got = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in inferred.graph.value_info
    }
    kept = sizes(named)
    assert got["b"] == got["d"] == kept["a"]
    assert census(short, CPU).executed.ops == census(whole, CPU).executed.ops


def test_names_of_inputs_and_outputs_stay() -> None:
    model = parse(
        """g (float["2*k"] x, float[d0] z) => (float["2*k"] y, float["n + 1"] p) {
        a = Neg(x) y = Abs(a) b = Compress(z, c) p = Neg(b)
        c = Greater(z, z) }""".replace('"2*k"', "K").replace('"n + 1"', "M")
    )
    names = {"K": "2*k", "M": "n + 1"}
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([names.get(str(dim), str(dim)) for dim in value.shape])
    model.graph.sort()
    (made,) = (node.outputs[0] for node in model.graph if node.op_type == "Compress")
    made.shape, made.type = ir.Shape(["some(z)"]), ir.TensorType(ir.DataType.FLOAT)
    run_pass(DropImplied(), model)
    assert sizes(model) == {"b": ["d1"], "y": ["2*k"], "p": ["n + 1"]}  # d0 is taken


@pytest.mark.parametrize("name", ["unk__0", "unk__7"])
def test_names_that_inference_makes_up_are_no_evidence(name: str) -> None:
    model = parse(
        f"g (float[N] x, bool[N] c) => (float[{name}] y) {{ a = Compress(x, c) y = Neg(a) }}"
    )
    value = model.graph[0].outputs[0]
    value.shape, value.type = ir.Shape([name]), ir.TensorType(ir.DataType.FLOAT)
    run_pass(DropImplied(), model)
    assert sizes(model)["a"] == [name]


def test_sizes_in_subgraphs_and_of_unknown_operators_stay() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (float[4] x, bool c) => (float[4] y) <float[4] a, float[4] i, float[4] t> {
            a = my.Op(x)
            i = If(c) <then_branch = t () => (float[4] t) { t = Neg(a) },
                       else_branch = e () => (float[4] e) { e = Abs(a) }>
            y = Neg(i)
        }""")
    before = sizes(model)
    ctx = run_pass(DropImplied(), model)
    assert sizes(model) == before
    assert rewrites(ctx) == {}


def test_what_a_value_says_besides_stays() -> None:
    model = parse("g (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) y = Neg(b) }")
    infer_shapes(model)
    model.graph[0].outputs[0].doc_string = "why"
    assert set(sizes(model)) == {"a", "b", "y"}
    run_pass(DropImplied(), model)
    assert set(sizes(model)) == {"a", "y"}
    assert not shapes_are_inferred(model)
    infer_shapes(model)
    assert set(sizes(model)) == {"a", "b", "y"}


def test_attributes_at_their_default_go() -> None:
    model = parse("""g (float[2,3] x, float[3,4] w) => (float[2,4] y) {
        a = Gemm <alpha = 1.0, beta = 0.5, transA = 0, transB = 0> (x, w)
        y = Softmax <axis = -1> (a)
    }""")
    before = model.clone()
    ctx = run_pass(DropImplied(), model)
    assert [sorted(node.attributes) for node in model.graph] == [["beta"], []]
    assert rewrites(ctx)["implied-attribute"] == 4
    assert_same_outputs(before, model)


def test_by_default_of_the_operator_set_that_a_model_has() -> None:
    text = "g (float[2,3] x) => (float[2,3] y) { y = Softmax <axis = 1> (x) }"
    old = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 12]> {text}')
    new = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 13]> {text}')
    for model in (old, new):
        run_pass(DropImplied(), model)
    assert [sorted(model.graph[0].attributes) for model in (old, new)] == [[], ["axis"]]


def test_only_of_models_that_this_run_quantized() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Neg(x) y = Neg(a) }"
    model = parse(text)
    infer_shapes(model)
    assert rewrites(run_pass(DropImplied(quantized=True), model)) == {}
    mark_quantized(model)
    assert rewrites(run_pass(DropImplied(quantized=True), model)) == {"implied-size": 1}
