# SPDX-License-Identifier: Apache-2.0
"""Dynamic int8: the numbers, the kernels the runtime makes of it, and what stays float."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.target import Target
from burnish.passes.quant.int8.dynamic import QuantDynamic
from burnish.passes.quant.scheme import weight_params
from burnish.testing import parse, refusals, rewrites, run_pass, structural_difference

Build = Any
Census = Any
Error = Any

# Inputs and weights of eight bits, one rounding each: about 0.7 % together.
BOUND = 0.02


def test_matmul_becomes_integers(build: Build) -> None:
    model = build("g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }", w=(32, 24))
    ctx = run_pass(QuantDynamic(), model)
    assert rewrites(ctx) == {"quant-matmul": 1}
    after = build(
        """g (float[N,32] x) => (float[N,24] y) {
            q, s, z = DynamicQuantizeLinear(x)
            i = MatMulInteger(q, w_int8, z)
            f = Cast <to = 1> (i)
            t = Mul(s, w_scale)
            y = Mul(f, t)
        }""",
        **{name: value.const_value.numpy() for name, value in model.graph.initializers.items()},
    )
    assert structural_difference(model, after) is None


def test_numbers_are_those_of_the_scheme(build: Build) -> None:
    """Against the same arithmetic in NumPy, to float32 rounding."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (32, 24)).astype(np.float32)
    model = build("g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }", w=weights)
    run_pass(QuantDynamic(), model, target=vnni())
    x = rng.normal(0, 3, (5, 32)).astype(np.float32)
    with onnxruntime.session(model) as session:
        actual = session.run({"x": x})["y"]
    scheme = weight_params(weights, 1)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    rounded = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    expected = rounded.astype(np.float64) @ scheme.dequantize(scheme.quantize(weights))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def vnni() -> Target:
    return Target("cpu", "CPUExecutionProvider", frozenset({"sse4.1", "avx2", "vnni"}), 21)


@pytest.mark.parametrize(
    ("body", "weights", "rule"),
    [
        ("y = MatMul(x, w)", {"w": (32, 24)}, "quant-matmul"),
        ("y = Gemm(x, w)", {"w": (32, 24)}, "quant-gemm"),
        ("y = Gemm(x, w, b)", {"w": (32, 24), "b": (24,)}, "quant-gemm"),
        ("y = Gemm <transB = 1> (x, w, b)", {"w": (24, 32), "b": (1, 24)}, "quant-gemm"),
        (
            "y = Gemm <alpha = -0.5, beta = 2.0> (x, w, b)",
            {"w": (32, 24), "b": (24,)},
            "quant-gemm",
        ),
    ],
)
@pytest.mark.parametrize("per_channel", [True, False])
def test_accuracy_and_names(
    build: Build, error: Error, body: str, weights: Any, rule: str, per_channel: bool
) -> None:
    model = build(f"g (float[N,32] x) => (float[N,24] y) {{ {body} }}", **weights)
    before = model.clone()
    ctx = run_pass(QuantDynamic(per_channel=per_channel), model)
    assert rewrites(ctx) == {rule: 1}
    assert model.graph.outputs[0].name == "y"
    assert 0 < error(before, model) < BOUND
    assert all(value.uses() for value in model.graph.initializers.values())
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize("bias", [True, False])
def test_the_runtime_makes_a_single_kernel_of_it(build: Build, census: Census, bias: bool) -> None:
    text = """g (float[N,S,32] x) => (float[N,S,24] y) {
        a = MatMul(x, w)
        y = Add(a, b)
    }"""
    if not bias:
        text = "g (float[N,S,32] x) => (float[N,S,24] y) { y = MatMul(x, w) }"
    model = build(text, w=(32, 24), **({"b": (24,)} if bias else {}))
    run_pass(QuantDynamic(), model)
    assert census(model) == {"DynamicQuantizeMatMul": 1}


def test_an_input_of_several_products_is_quantized_once(build: Build, census: Census) -> None:
    text = """g (float[N,32] x) => (float[N,24] p, float[N,24] q) {
        p = MatMul(x, w1)
        q = MatMul(x, w2)
    }"""
    model = build(text, w1=(32, 24), w2=(32, 24))
    run_pass(QuantDynamic(), model)
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in model.graph) == 1
    assert census(model) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2}


def test_shared_weights_are_quantized_once(build: Build, error: Error) -> None:
    text = """g (float[N,32] x) => (float[N,32] y) {
        a = MatMul(x, w)
        t = Tanh(a)
        y = Gemm <transB = 1> (t, w)
    }"""
    rng = np.random.default_rng(0)
    half = rng.normal(0, 0.2, (32, 32)).astype(np.float32)
    model = build(text, w=half + half.T)  # symmetric: both orientations are the same integers
    before = model.clone()
    run_pass(QuantDynamic(), model)
    assert set(model.graph.initializers) == {"w_int8", "w_scale"}
    assert error(before, model) < BOUND


def test_in_a_subgraph(build: Build) -> None:
    text = """g (float[N,32] x, bool c) => (float[N,24] y) {
        y = If(c) <
            then_branch = t () => (float[N,24] p) { p = MatMul(x, w) },
            else_branch = e () => (float[N,24] q) { q = Gemm(x, v, b) }
        >
    }"""
    model = build(text, w=(32, 24), v=(32, 24), b=(24,))
    before = model.clone()
    ctx = run_pass(QuantDynamic(), model)
    assert rewrites(ctx) == {"quant-matmul": 1, "quant-gemm": 1}
    x = np.random.default_rng(0).normal(0, 1, (4, 32)).astype(np.float32)
    with onnxruntime.session(before) as old, onnxruntime.session(model) as new:
        for c in (True, False):
            feeds = {"x": x, "c": np.array(c)}
            expected, actual = old.run(feeds)["y"], new.run(feeds)["y"]
            assert np.linalg.norm(actual - expected) < BOUND * np.linalg.norm(expected)


def test_in_a_function() -> None:
    model = parse("""
        <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N,32] x, float[32,24] w) => (float[N,24] y) { y = local.f(x, w) }
        <domain: "local", opset_import: ["" : 21]>
        f (a, b) => (c) { c = MatMul(a, b) }
    """)
    ctx = run_pass(QuantDynamic(), model)
    assert refusals(ctx) == {"quant-matmul": {"inside a function of the model": 1}}


@pytest.mark.parametrize(
    ("body", "weights", "rule", "reason"),
    [
        ("y = MatMul(w, x)", (4, 64), "quant-matmul", "its weights are the left operand"),
        ("y = MatMul(x, w)", (2, 16, 24), "quant-matmul", "its weights have rank 3, not 2"),
        ("y = MatMul(x, w)", (32, 8), "quant-matmul", "few output channels: int8 is no faster"),
        (
            "y = Gemm <transA = 1> (x, w)",
            (64, 24),
            "quant-gemm",
            "its input is transposed (transA)",
        ),
        (
            "y = MatMul(x, w)",
            np.full((32, 24), np.inf, np.float32),
            "quant-matmul",
            "its weights are not finite",
        ),
        ("y = MatMul(x, w)", (32, 24), "quant-matmul", "excluded by name"),
    ],
)
def test_what_stays_float(build: Build, body: str, weights: Any, rule: str, reason: str) -> None:
    model = build(f"g (float[M,N] x) => (float[P,Q] y) {{ {body} }}", w=weights)
    before = model.clone()
    exclude = ("y",) if reason == "excluded by name" else ()
    ctx = run_pass(QuantDynamic(exclude=exclude), model)
    assert refusals(ctx) == {rule: {reason: 1}}
    assert structural_difference(before, model) is None


def test_convolutions_are_left_alone(build: Build) -> None:
    model = build("g (float[N,8,8,8] x) => (float[N,8,8,8] y) { y = Conv(x, w) }", w=(8, 8, 1, 1))
    ctx = run_pass(QuantDynamic(), model)
    assert rewrites(ctx) == {}
    assert refusals(ctx) == {}


def test_an_old_opset_is_upgraded_first(build: Build, error: Error) -> None:
    text = "g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }"
    model = build(text, opset=9, w=(32, 24))
    before = model.clone()
    ctx = run_pass(QuantDynamic(), model)
    assert rewrites(ctx) == {"upgrade-opset": 1, "quant-matmul": 1}
    assert model.opset_imports[""] == 11
    assert error(before, model) < BOUND


def test_twice_is_once(build: Build) -> None:
    model = build("g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }", w=(32, 24))
    run_pass(QuantDynamic(), model)
    once = model.clone()
    ctx = run_pass(QuantDynamic(), model)
    assert rewrites(ctx) == {}
    assert structural_difference(once, model) is None


def test_weights_have_seven_bits_where_sums_saturate(build: Build) -> None:
    model = build("g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }", w=(32, 24))
    target = Target("cpu", "CPUExecutionProvider", frozenset({"sse4.1", "avx2"}), 21)
    run_pass(QuantDynamic(), model, target=target)
    held = model.graph.initializers["w_int8"].const_value
    assert held is not None
    assert int(np.abs(held.numpy().astype(int)).max()) == 64


def test_large_weights_keep_a_mapped_file_readable(build: Build, tmp_path: Any) -> None:
    model = build("g (float[N,256] x) => (float[N,512] y) { y = MatMul(x, w) }", w=(256, 512))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    loaded = ir.load(tmp_path / "m.onnx")
    run_pass(QuantDynamic(), loaded)
    run_pass(QuantDynamic(), model)
    assert structural_difference(model, loaded) is None


@pytest.mark.parametrize(
    ("body", "floats"),
    [
        ("{ p = MatMul(x, w)  y = Log(p) }", 1),
        ("{ p = MatMul(x, w)  a = Add(p, least)  r = Sqrt(a)  y = Log(r) }", 1),
        ("{ p = MatMul(x, w)  s = Softmax(p)  y = Log(s) }", 0),
        ("{ p = MatMul(x, w)  r = Relu(p)  y = Log(r) }", 0),
        ("{ q = Mul(x, x)  p = MatMul(q, w)  r = MatMul(p, v)  y = Log(r) }", 2),
    ],
)
def test_products_under_a_logarithm_stay_float(build: Build, body: str, floats: int) -> None:
    """As in filter banks before speech recognition: int8 moves their outputs by 58 % and more."""
    model = build(
        f"g (float[N,32] x) => (float[N,M] y) {body}",
        w=np.abs(np.random.default_rng(0).normal(0, 1, (32, 24))).astype(np.float32),
        **({"v": (24, 32)} if " v)" in body else {}),
        **({"least": np.full(1, 1e-6, np.float32)} if "least" in body else {}),
    )
    ctx = run_pass(QuantDynamic(), model)
    reason = "its logarithm is taken: small numbers count as much as large ones"
    assert refusals(ctx).get("quant-matmul", {}) == ({reason: floats} if floats else {})
