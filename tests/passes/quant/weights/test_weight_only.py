# SPDX-License-Identifier: Apache-2.0
"""Weight-only integers by blocks: both forms, what they refuse, sizes, tied and large weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import burnish
from burnish.backends import onnxfile, onnxruntime
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.quant.weights import block_forms
from burnish.passes.quant.weights.blocks import fit_blocks
from burnish.passes.quant.weights.weight_only import QuantWeights
from burnish.testing import (
    assert_same_outputs,
    refusals,
    rewrites,
    run_pass,
    structural_difference,
)

Build = Any

MATMUL = "g (float[N,96] x) => (float[N,64] y) { y = MatMul(x, w) }"
GEMM = "g (float[N,96] x) => (float[N,64] y) { y = Gemm <%s> (x, w, b) }"
GATHER = "g (int64[N,S] i) => (float[N,S,64] y) { y = Gather(t, i) }"

FORMS = ["nbits", "dequantize"]
EXACT: dict[str, Any] = {"compute": "float32"}


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def with_rounded_weights(model: ir.Model, options: dict[str, Any]) -> ir.Model:
    """What the pass should amount to: the float model, with weights rounded by the formula."""
    expected = model.clone()
    for node in expected.graph:
        table = node.op_type == "Gather"
        value = node.inputs[0 if table else 1]
        assert value is not None
        assert value.const_value is not None
        array = value.const_value.numpy()
        transB = node.attributes.get("transB")
        rows = array if table or (transB and transB.as_int()) else array.T
        block = options.get("block", 32)
        scheme = fit_blocks(
            rows,
            options.get("bits", 4),
            block,
            symmetric=options.get("symmetric", False),
        )
        rounded = scheme.dequantize(scheme.quantize(rows))
        rounded = rounded if rows is array else rounded.T
        value.const_value = ir.tensor(np.ascontiguousarray(rounded), name=value.name)
    return expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64])  # 64 does not divide 96
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (MATMUL, {"w": (96, 64)}),
        (GEMM % "transB = 1", {"w": (64, 96), "b": (64,)}),
        (GEMM % "alpha = 0.5, beta = 2.0", {"w": (96, 64), "b": (1, 64)}),
        (GATHER, {"t": (300, 64)}),
    ],
)
def test_it_computes_what_the_formula_says(
    build: Build,
    form: str,
    bits: int,
    symmetric: bool,
    block: int,
    text: str,
    shapes: dict[str, tuple[int, ...]],
) -> None:
    model = build(text, **shapes)
    options: dict[str, Any] = {"bits": bits, "symmetric": symmetric, "block": block}
    expected = with_rounded_weights(model, options)
    ctx = run_pass(QuantWeights(form=form, **EXACT, **options), model)
    (rule,) = rewrites(ctx)
    assert rule == f"quant-{expected.graph[0].op_type.lower()}"
    made = ops(model)
    assert ("DequantizeLinear" in made) == (form == "dequantize")
    feeds = None
    if "i" in {value.name for value in model.graph.inputs}:
        feeds = {"i": np.random.default_rng(0).integers(-300, 300, (3, 7))}
    assert_same_outputs(expected, model, feeds=feeds)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("text", [MATMUL, GATHER])
def test_a_scale_for_a_whole_channel(build: Build, bits: int, text: str) -> None:
    model = build(text, **({"w": (96, 64)} if text is MATMUL else {"t": (300, 64)}))
    options: dict[str, Any] = {"bits": bits, "block": 0}
    expected = with_rounded_weights(model, options)
    run_pass(QuantWeights(**options), model)  # form=auto: only the standard one can
    assert "DequantizeLinear" in ops(model)
    feeds = {"i": np.arange(30).reshape(3, 10)} if text is GATHER else None
    assert_same_outputs(expected, model, feeds=feeds)


def test_int8_sums_are_off_by_less_than_the_weights(build: Build) -> None:
    float_model = build(MATMUL, w=(96, 64))
    runs = {}
    for compute in ("float32", "int8"):
        model = float_model.clone()
        run_pass(QuantWeights(compute=compute), model)
        runs[compute] = model
    x = np.random.default_rng(3).normal(0, 1, (20, 96)).astype(np.float32)

    def run(model: ir.Model) -> np.ndarray:
        with onnxruntime.session(model) as session:
            return session.run({"x": x})["y"]

    expected, exact, fast = run(float_model), run(runs["float32"]), run(runs["int8"])
    of_weights = np.linalg.norm(exact - expected)
    assert 0 < np.linalg.norm(fast - exact) < of_weights / 4


def test_sizes_are_what_the_widths_say(build: Build) -> None:
    model = build(GATHER, t=(3000, 64))
    ctx = run_pass(QuantWeights(block=32), model)
    sizes = {n: v.const_value.nbytes for n, v in model.graph.initializers.items()}
    assert sizes == {
        "t_int4": 3000 * 64 // 2,
        "t_scale": 3000 * 2 * 4,
        "t_zero_point": 3000 * 2 // 2,
    }
    told = ctx.reports[0].details
    assert told["bytes"] == {
        "before": 3000 * 64 * 4,
        "after": sum(sizes.values()),
        "ratio": sum(sizes.values()) / (3000 * 64 * 4),
    }
    (error,) = told["weight errors"].values()
    assert 0.05 < error < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_weights_behind_views(build: Build, form: str) -> None:
    text = """g (float[N,96] x) => (float[N,64] y) {
        c = Constant <value = float[1] {0.0}> ()
        i = Identity(w)
        t = Transpose <perm = [1, 0]> (i)
        y = MatMul(x, t)
    }"""
    model = build(text, w=(64, 96))
    direct = build(MATMUL, w=(96, 64))
    direct.graph.initializers["w"].const_value = ir.tensor(
        np.ascontiguousarray(model.graph.initializers["w"].const_value.numpy().T), name="w"
    )
    expected = with_rounded_weights(direct, {})
    run_pass(QuantWeights(form=form, **EXACT), model)
    assert "Transpose" not in ops(model)
    assert "w" not in model.graph.initializers
    assert_same_outputs(expected, model)


def test_weights_in_a_constant_node(build: Build) -> None:
    model = build(MATMUL, w=(96, 64))
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    node = ir.node("Constant", [], {"value": tensor}, name="c")
    model.graph[0].replace_input_with(1, node.outputs[0])
    node.outputs[0].name = "held"
    del model.graph.initializers["w"]
    model.graph.insert_before(model.graph[0], node)
    assert rewrites(run_pass(QuantWeights(), model)) == {"quant-matmul": 1}
    assert ops(model) == {"MatMulNBits": 1}


TIED = """g (int64[N,S] i) => (float[N,S,300] y) {
    x = Gather(t, i)
    w = Transpose <perm = [1, 0]> (t)
    y = MatMul(x, w)
}"""


@pytest.mark.parametrize("block", [32, 128])
def test_a_tied_table_is_stored_once(build: Build, block: int) -> None:
    """A language model's table of embeddings is also the weights of its last product."""
    model = build(TIED, t=(300, 64))
    before = model.clone()
    run_pass(QuantWeights(block=block, **EXACT), model)
    stored = {name for name in model.graph.initializers if "shape" not in name}
    twice = {"w_int4"} if block == 128 else set()  # blocks reach over the ends of rows
    assert stored == {"t_int4", "t_scale", "t_zero_point"} | twice
    rows = before.graph.initializers["t"].const_value.numpy()
    scheme = fit_blocks(rows, 4, block)
    rounded = scheme.dequantize(scheme.quantize(rows))
    i = np.array([[3, 200, -1]])
    with onnxruntime.session(model) as session:
        actual = session.run({"i": i})["y"]
    np.testing.assert_allclose(actual, rounded[i] @ rounded.T, rtol=1e-4, atol=1e-4)


def test_weights_two_products_share_are_stored_once(build: Build) -> None:
    text = """g (float[N,96] x, float[N,96] z) => (float[N,64] y) {
        a = MatMul(x, w)
        b = MatMul(z, w)
        y = Add(a, b)
    }"""
    for form in FORMS:
        model = build(text, w=(96, 64))
        assert rewrites(run_pass(QuantWeights(form=form), model)) == {"quant-matmul": 2}
        assert set(model.graph.initializers) == {"w_int4", "w_scale", "w_zero_point"}


def test_products_in_subgraphs(build: Build) -> None:
    text = """g (float[N,96] x, bool c) => (float[N,64] y) {
        y = If (c) <
            then_branch = t () => (float[N,64] p) { p = MatMul(x, w) },
            else_branch = e () => (float[N,64] q) { n = Neg(x) q = MatMul(n, w) }
        >
    }"""
    for form in FORMS:
        model = build(text, w=(96, 64))
        before = model.clone()
        assert rewrites(run_pass(QuantWeights(form=form, bits=8), model)) == {"quant-matmul": 2}
        x = np.random.default_rng(0).normal(0, 1, (4, 96)).astype(np.float32)
        for c in (True, False):
            with onnxruntime.session(before) as old, onnxruntime.session(model) as new:
                feeds = {"x": x, "c": np.array(c)}
                expected, actual = old.run(feeds)["y"], new.run(feeds)["y"]
            assert np.linalg.norm(actual - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("text", "shape", "options", "reason"),
    [
        (MATMUL, (96, 64), {"exclude": ("y",)}, "excluded by name"),
        ("g (float[96] x) => (float[64] y) { y = MatMul(x, w) }", (96, 64), {}, "is a vector"),
        (
            "g (float[2,N,96] x) => (float[2,N,64] y) { y = MatMul(x, w) }",
            (2, 96, 64),
            {},
            "its weights have rank 3, not 2",
        ),
        (
            "g (float[96,N] x) => (float[N,64] y) { y = Gemm <transA = 1> (x, w) }",
            (96, 64),
            {},
            "its input is transposed (transA)",
        ),
        (
            "g (float[N,96] x) => (float[64,N] y) { t = Transpose(x) y = MatMul(w, t) }",
            (64, 96),
            {},
            "its weights are the left operand",
        ),
        (MATMUL, np.full((96, 64), np.inf, np.float32), {}, "its weights are not finite"),
        (
            "g (float[N,96] x) => (float[N,64] y, float[A,B] z) { y = MatMul(x, w) z = Neg(w) }",
            (96, 64),
            {},
            "its weights are used by other operators too",
        ),
        (
            "g (int64[N] i) => (float[96,N] y) { y = Gather <axis = 1> (w, i) }",
            (96, 64),
            {},
            "along another axis",
        ),
        ("g (int64[N] i) => (float[N,5] y) { y = Gather(w, i) }", (999, 5), {}, "no whole bytes"),
        (
            "g (int64[N] i) => (float[N,8,9] y) { y = Gather(w, i) }",
            (99, 8, 9),
            {},
            "its table has rank 3, not 2",
        ),
    ],
)
def test_what_stays_float(
    build: Build, text: str, shape: Any, options: dict[str, Any], reason: str
) -> None:
    model = build(text, w=shape)
    before = model.clone()
    ctx = run_pass(QuantWeights(**options), model)
    reasons = [given for rule in refusals(ctx).values() for given in rule]
    assert any(reason in given for given in reasons), reasons
    assert structural_difference(before, model) is None


def test_small_weights_are_no_news(build: Build) -> None:
    model = build("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", w=(8, 8))
    ctx = run_pass(QuantWeights(), model)
    assert rewrites(ctx) == {}
    assert refusals(ctx) == {}


def test_a_function_keeps_its_weights() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
    g (float[N,96] x, float[96,64] w) => (float[N,64] y) { y = f.Dense(x, w) }
    <domain: "f", opset_import: ["" : 21]>
    Dense (x, w) => (y) { y = MatMul(x, w) }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    ctx = run_pass(QuantWeights(), model)
    assert refusals(ctx) == {"quant-matmul": {"inside a function of the model": 1}}


def test_a_target_without_the_kernels_gets_the_standard_form(build: Build) -> None:
    class Other(Target):
        def fuses(self, name: str, dtype: ir.DataType | None = None) -> bool:
            return False

    cpu = Target.parse("cpu")
    other = Other("other", cpu.provider, cpu.isa, cpu.max_opset)
    for target, expected in ((cpu, "MatMulNBits"), (other, "DequantizeLinear")):
        model = build(MATMUL, opset=17, w=(96, 64))
        run_pass(QuantWeights(), model, target=target)
        assert expected in ops(model)
        standard = expected == "DequantizeLinear"
        assert model.opset_imports[""] == (21 if standard else 17)
        assert ("com.microsoft" in model.opset_imports) == (not standard)


def test_the_standard_form_is_valid_and_the_reference_agrees(build: Build) -> None:
    from onnx.reference import ReferenceEvaluator

    for text, name, shape in ((MATMUL, "w", (96, 64)), (GATHER, "t", (300, 64))):
        for options in ({}, {"bits": 8}, {"symmetric": True}):
            model = build(text, **{name: shape})
            run_pass(QuantWeights(form="dequantize", **options), model)
            proto = ir.to_proto(model)
            onnx.checker.check_model(proto, full_check=True)
            x = np.random.default_rng(0).normal(0, 1, (5, 96)).astype(np.float32)
            feeds = {"x": x} if name == "w" else {"i": np.array([[1, 2], [3, -4]])}
            expected: Any = next(iter(ReferenceEvaluator(proto).run(None, feeds)))
            with onnxruntime.session(model) as session:
                actual = session.run(feeds)["y"]
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_runtime_makes_the_fast_kernel_of_the_standard_form(build: Build, census: Any) -> None:
    model = build(MATMUL, w=(96, 64))
    run_pass(QuantWeights(form="dequantize"), model)
    assert census(model) == {"MatMulNBits": 1}


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match="5 is neither 4 nor 8"):
        QuantWeights(bits=5)
    with pytest.raises(InputError, match="'table-bits': 6 is neither 4 nor 8"):
        QuantWeights(table_bits=6)
    for block in (0, 8, 48):
        with pytest.raises(InputError, match=f"powers of two from 16, not {block}"):
            QuantWeights(form="nbits", block=block)


def test_tables_may_be_wider_than_products(build: Build) -> None:
    model = build(TIED.replace("MatMul(x, w)", "MatMul(x, v)"), t=(300, 64), v=(64, 300))
    run_pass(QuantWeights(table_bits=8), model)
    assert {"t_int8", "v_int4"} <= set(model.graph.initializers)


def test_twice_is_once_and_a_quantized_model_stays(build: Build) -> None:
    model = build(MATMUL, w=(96, 64))
    run_pass(QuantWeights(), model)
    assert rewrites(run_pass(QuantWeights(), model)) == {}
    fresh = ir.from_proto(ir.to_proto(model))  # without the marks of this run
    ctx = run_pass(QuantWeights(), fresh)
    assert "already quantized (1 MatMulNBits)" in ctx.warnings[0]


@pytest.mark.parametrize("form", FORMS)
def test_large_weights_are_computed_as_they_are_written(
    build: Build, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr(block_forms, "LAZY_BYTES", limit)
        model = build(TIED, t=(300, 64))
        run_pass(QuantWeights(form=form), model)
        lazy = [
            name
            for name, value in model.graph.initializers.items()
            if isinstance(value.const_value, ir.LazyTensor)
        ]
        assert bool(lazy) == (limit == 0)
        paths.append(tmp_path / f"{limit}.onnx")
        onnxfile.save(model, paths[-1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_external_weights_give_the_same_bytes(build: Build, tmp_path: Path) -> None:
    proto = ir.to_proto(build(TIED, t=(300, 64)))
    inline, outside = tmp_path / "inline.onnx", tmp_path / "outside.onnx"
    onnx.save(proto, inline)
    onnx.save(proto, outside, save_as_external_data=True, location="w", size_threshold=0)
    models = [burnish.optimize(path, "quant-weights").model for path in (inline, outside, outside)]
    held = [
        {
            name: None if value.const_value is None else value.const_value.tobytes()
            for name, value in model.graph.initializers.items()
        }
        for model in models
    ]
    assert held[0] == held[1] == held[2]


@pytest.mark.zoo
@pytest.mark.parametrize(("bits", "ratio", "drop"), [(4, 0.18, 0.01), (8, 0.30, 0.01)])
def test_minilm(bits: int, ratio: float, drop: float, tmp_path: Path) -> None:
    """Int4 stays under 0.18 of the size and within 1% of retrieval."""
    from burnish.tools import zoo

    source, output = zoo.fetch("minilm-l6-torchscript"), tmp_path / "small.onnx"
    burnish.optimize(source, f"fuse,quant-weights{{bits={bits}}}", output=output)
    assert output.stat().st_size < ratio * source.stat().st_size
    recall = zoo.metric("minilm-l6-torchscript")
    scores = []
    for path in (source, output):
        with onnxruntime.session(path, threads=2, optimize="all") as session:
            scores.append(recall.evaluate(session.run))
    assert scores[1] >= scores[0] * (1 - drop), scores
