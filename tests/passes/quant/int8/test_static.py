# SPDX-License-Identifier: Apache-2.0
"""Static int8: what is quantized and what is not, how accurate it is, and what the runtime runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxfile import save
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.constant import as_array
from burnish.passes.quant.int8.static import QuantStatic
from burnish.testing import refusals, rewrites, run_pass, structural_difference

Build = Any
Samples = Any
Census = Any
Error = Any
Whole = Any

CONVS = """g (float[N,8,16,16] x) => (float[N,8,16,16] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    c = Conv (r, w2, b2)
    s = Softplus(c)
    y = Conv <pads = [1, 1, 1, 1]> (s, w3)
}"""
CONV_WEIGHTS = {
    "w1": (32, 8, 3, 3),
    "b1": (32,),
    "w2": (16, 32, 1, 1),
    "b2": (16,),
    "w3": (8, 16, 3, 3),
}

PRODUCTS = """g (float[N,64] x) => (float[N,10] y) {
    a = MatMul(x, w1)
    r = Relu(a)
    y = Gemm <transB = 1> (r, w2, b2)
}"""
PRODUCT_WEIGHTS = {"w1": (64, 48), "w2": (10, 48), "b2": (10,)}

# Eight bits of a bell curve that spans eight standard deviations: the rounding error of each
# activation is about 0.9 % of its size, that of each weight about 0.7 %; a few layers add up.
BOUND = 0.03


def conv_inputs_are_dequantized(node: ir.Node) -> bool:
    return all(
        value is not None and (made := value.producer()) and made.op_type == "DequantizeLinear"
        for value in node.inputs
    )


def test_convolutions(
    pairs_are_whole: Whole, build: Build, samples: Samples, census: Census, error: Error
) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 16, 16))
    assert rewrites(ctx) == {"quant-conv": 2}
    # The last one stays float: its rounded result would be the output of the model.
    assert refusals(ctx) == {"quant-conv": {"its result is an output of the model": 1}}
    pairs_are_whole(model)
    assert 0 < error(before, model) < BOUND
    run = census(model)
    assert run["QLinearConv"] == 2
    assert run["Relu"] == 0  # saturation does its work
    assert run["Conv"] == 1


def test_products(
    pairs_are_whole: Whole, build: Build, samples: Samples, census: Census, error: Error
) -> None:
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 4, 64))
    assert rewrites(ctx) == {"quant-matmul": 1, "quant-gemm": 1}
    pairs_are_whole(model)
    assert 0 < error(before, model) < BOUND
    run = census(model)
    assert run == {"QuantizeLinear": 1, "QLinearMatMul": 1, "QGemm": 1}


def test_weights_are_int8_by_channel_and_biases_int32(build: Build, samples: Samples) -> None:
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 64))
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert {n: (t.dtype.name, t.shape.numpy()) for n, t in held.items() if t is not None} == {
        "w1_int8": ("INT8", (64, 48)),
        "w1_scale": ("FLOAT", (48,)),
        "w1_zero_point": ("INT8", (48,)),
        "w2_int8": ("INT8", (10, 48)),
        "w2_scale": ("FLOAT", (10,)),
        "w2_zero_point": ("INT8", (10,)),
        "b2_int32": ("INT32", (10,)),
        "b2_scale": ("FLOAT", (10,)),
        "x_scale": ("FLOAT", ()),
        "x_zero_point": ("UINT8", ()),
        "r_scale": ("FLOAT", ()),
        "r_zero_point": ("UINT8", ()),
    }


def test_the_same_bytes_twice(build: Build, samples: Samples, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = build(CONVS, **CONV_WEIGHTS)
        run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 16, 16))
        save(model, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_twice_is_once(build: Build, samples: Samples) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    calibration = samples(model, 2, 8, 16, 16)
    run_pass(QuantStatic(), model, calibration=calibration)
    text = ir.to_onnx_text(model)
    ctx = run_pass(QuantStatic(), model, calibration=calibration)
    assert rewrites(ctx) == {}
    assert ir.to_onnx_text(model) == text


@pytest.mark.parametrize("limit", range(4))
def test_any_part_of_the_rewrites_gives_a_working_model(
    build: Build, samples: Samples, error: Error, limit: int
) -> None:
    text = """g (float[N,8,8,8] x) => (float[N,8,1,1] y) {
        a = Conv(x, w1)
        b = Conv(a, w2)
        c = Add(a, b)
        d = Conv(c, w3)
        y = ReduceMean <axes = [2, 3]> (d)
    }"""
    model = build(text, opset=17, w1=(8, 8, 1, 1), w2=(8, 8, 1, 1), w3=(8, 8, 1, 1))
    before = model.clone()
    calibration = samples(model, 1, 8, 8, 8)
    ctx = run_pass(QuantStatic(), model, calibration=calibration, limit=limit)
    assert sum(rewrites(ctx).values()) == limit
    assert error(before, model) < 2 * BOUND


# --- what is refused, and why ------------------------------------------------------------------

ONE_CONV = """g (float[N,{c},8,8] x) => (float[N,{k},8,8] y) {{
    a = Conv <pads = [1, 1, 1, 1], group = {group}> (x, w)
    y = Softplus(a)
}}"""


@pytest.mark.parametrize(
    ("channels", "weights", "group", "reason"),
    [
        (16, (16, 1, 3, 3), 16, "depthwise, and not between quantized operators"),
        (16, (16, 4, 3, 3), 4, "narrow groups: int8 is slower"),
        (16, np.full((16, 16, 3, 3), np.nan, np.float32), 1, "its weights are not finite"),
    ],
)
def test_a_convolution_that_stays_float(
    build: Build, samples: Samples, channels: int, weights: Any, group: int, reason: str
) -> None:
    text = ONE_CONV.format(c=channels, k=16, group=group)
    model = build(text, w=weights)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 1, channels, 8, 8))
    assert refusals(ctx) == {"quant-conv": {reason: 1}}
    assert structural_difference(before, model) is None


def test_squeeze_and_excitation_stays_float(
    build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w1)
        m = GlobalAveragePool(a)
        s = Conv(m, w2)
        g = Sigmoid(s)
        y = Mul(a, g)
    }""".replace("[N,16,8,8] y", "[N,64,8,8] y")
    model = build(text, w1=(64, 16, 1, 1), w2=(64, 64, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 1, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 1, "quant-globalaveragepool": 1}
    assert refusals(ctx) == {"quant-conv": {"one pixel and few weights: int8 is no faster": 1}}
    run = census(model)
    assert (run["Conv"] + run["FusedConv"], run["Cast"]) == (1, 0)
    assert error(before, model) < BOUND


@pytest.mark.parametrize(
    ("body", "weights", "rule", "reason"),
    [
        ("y = MatMul(w, x)", {"w": (4, 64)}, "quant-matmul", "its weights are the left operand"),
        ("y = MatMul(x, w)", {"w": (2, 16, 8)}, "quant-matmul", "its weights have rank 3, not 2"),
        (
            "y = Gemm <transA = 1> (x, w)",
            {"w": (64, 8)},
            "quant-gemm",
            "its input is transposed (transA)",
        ),
        ("y = Gemm(x, w, x)", {"w": (16, 16)}, "quant-gemm", "its bias is not constant"),
        ("y = Gemm(x, x)", {}, "quant-gemm", "its weights are not constant"),
        (
            "t = MatMul(v, w) y = Add(x, t)",
            {"v": (4, 16), "w": (16, 16)},
            "quant-matmul",
            "its input is constant: it can be folded",
        ),
        (
            "y = Gemm(x, w, b)",
            {"w": (16, 8), "b": (1,)},
            "quant-gemm",
            "its bias is not one number a channel",
        ),
        (
            "h = Cast <to = 11> (x) t = MatMul(h, w) y = Cast <to = 1> (t)",
            {"w": np.ones((16, 4), np.float64)},
            "quant-matmul",
            "its weights are float64, not float32",
        ),
    ],
)
def test_a_product_that_stays_float(
    build: Build, body: str, weights: Any, rule: str, reason: str
) -> None:
    model = build(f"g (float[M,N] x) => (float[P,Q] y) {{ {body} }}", **weights)
    ctx = run_pass(QuantStatic(optional=True), model)
    assert refusals(ctx) == {rule: {reason: 1}}
    assert rewrites(ctx) == {}


def test_a_product_of_two_activations_is_no_refusal(build: Build) -> None:
    model = build("g (float[4,4] x) => (float[4,4] y) { y = MatMul(x, x) }")
    ctx = run_pass(QuantStatic(optional=True), model)
    assert refusals(ctx) == {}


def test_names_can_be_excluded(build: Build, samples: Samples) -> None:
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    calibration = samples(model, 4, 64)
    ctx = run_pass(QuantStatic(exclude=("y*",)), model, calibration=calibration)
    assert rewrites(ctx) == {"quant-matmul": 1}
    assert refusals(ctx) == {"quant-gemm": {"excluded by name": 1}}


def test_operators_can_be_chosen(build: Build, samples: Samples) -> None:
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    ctx = run_pass(QuantStatic(ops=("Gemm",)), model, calibration=samples(model, 4, 64))
    assert rewrites(ctx) == {"quant-gemm": 1}
    assert refusals(ctx) == {}


def test_activations_that_are_not_finite_or_all_zero(build: Build, samples: Samples) -> None:
    text = """g (float[N,16] x) => (float[N,16] y, float[N,16] z) {
        l = Log(x)
        y = MatMul(l, w1)
        n = Sub(x, x)
        z = MatMul(n, w2)
    }"""
    model = build(text, w1=(16, 16), w2=(16, 16))
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 4, 16))
    assert refusals(ctx) == {
        "quant-matmul": {
            "its activations are not finite on the calibration data": 1,
            "its activations are all zero on the calibration data": 1,
        }
    }


def test_inside_a_subgraph(build: Build, samples: Samples) -> None:
    text = """g (float[N,16] x, bool c) => (float[N,16] y) {
        y = If(c) <
            then_branch = t () => (float[N,16] p) { p = MatMul(x, w) },
            else_branch = e () => (float[N,16] q) { q = Identity(x) }
        >
    }"""
    model = build(text, w=(16, 16))
    ctx = run_pass(QuantStatic(optional=True), model)
    reason = "inside a subgraph, where it cannot be observed"
    assert refusals(ctx) == {"quant-matmul": {reason: 1}}
    assert ctx.warnings == [
        "1 MatMul in If, Loop or Scan stay float: calibration does not see inside"
    ]


# --- weights that are not plain initializers ---------------------------------------------------


def test_weights_behind_views(
    pairs_are_whole: Whole, build: Build, samples: Samples, error: Error
) -> None:
    text = """g (float[N,32] x) => (float[N,32] y) {
        t = Transpose <perm = [1, 0]> (w)
        i = Identity(t)
        h = MatMul(x, i)
        y = MatMul(h, c)
    }"""
    rng = np.random.default_rng(3)
    model = build(text, w=(32, 32), c=rng.normal(0, 0.2, (32, 32)).astype(np.float32))
    # One of the two as a Constant node.
    held = model.graph.initializers.pop("c")
    constant = ir.node("Constant", [], {"value": held.const_value})
    model.graph.insert_before(model.graph[0], constant)
    held.replace_all_uses_with(constant.outputs[0])
    constant.outputs[0].name = "c"
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 4, 32))
    assert rewrites(ctx) == {"quant-matmul": 2}
    pairs_are_whole(model)
    assert {node.op_type for node in model.graph} == {
        "QuantizeLinear",
        "DequantizeLinear",
        "MatMul",
    }
    assert error(before, model) < BOUND


def test_shared_weights_are_quantized_once(build: Build, samples: Samples, error: Error) -> None:
    text = """g (float[N,32] x) => (float[N,32] y) {
        a = MatMul(x, w)
        r = Tanh(a)
        y = MatMul(r, w)
    }"""
    model = build(text, w=(32, 32))
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 32))
    integers = [n for n in model.graph.initializers if n.startswith("w") and n.endswith("_int8")]
    assert integers == ["w_int8"]
    assert error(before, model) < BOUND


def test_alpha_and_beta_are_multiplied_in(build: Build, samples: Samples, error: Error) -> None:
    text = """g (float[N,32] x) => (float[N,24] y, float[N,24] z) {
        y = Gemm <alpha = 0.5, beta = 3.0> (x, w, b)
        z = Gemm <alpha = -1.0, beta = -2.0> (x, w, b)
    }"""
    model = build(text, w=(32, 24), b=(24,))
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 32))
    assert error(before, model) < BOUND


def test_a_bias_beyond_int32_is_kept(build: Build, samples: Samples, error: Error) -> None:
    """Weights of one channel are all zero, of another tiny beside its bias."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.2, (32, 16)).astype(np.float32)
    weights[:, 0] = 0
    weights[:, 1] = 1e-12
    model = build(
        "g (float[N,32] x) => (float[N,16] y) { y = Gemm(x, w, b) }",
        w=weights,
        b=np.full(16, 5.0, np.float32),
    )
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 32))
    assert error(before, model) < BOUND
    bias = model.graph.initializers["b_int32"].const_value
    assert bias is not None
    scale = as_array(model.graph.initializers["b_scale"])
    np.testing.assert_allclose(bias.numpy() * scale, 5.0, rtol=1e-3)


# --- options, targets, opsets ------------------------------------------------------------------


def test_one_scale_for_all_channels(build: Build, samples: Samples, error: Error) -> None:
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    before = model.clone()
    run_pass(QuantStatic(per_channel=False), model, calibration=samples(model, 4, 64))
    scale = model.graph.initializers["w1_scale"].const_value
    assert scale is not None
    assert tuple(scale.shape.numpy()) == ()
    assert error(before, model) < 2 * BOUND


@pytest.mark.parametrize("isa", [{"sse4.1", "avx2"}, {"sse4.1", "avx2", "vnni"}, {"neon"}])
def test_weights_have_seven_bits_where_sums_saturate(
    build: Build, samples: Samples, isa: set[str]
) -> None:
    target = Target("cpu", "CPUExecutionProvider", frozenset(isa), 21)
    model = build(PRODUCTS, **PRODUCT_WEIGHTS)
    run_pass(QuantStatic(), model, target=target, calibration=samples(model, 4, 64))
    held = model.graph.initializers["w1_int8"].const_value
    assert held is not None
    largest = int(np.abs(held.numpy().astype(int)).max())
    assert largest == (64 if isa == {"sse4.1", "avx2"} else 127)


@pytest.mark.parametrize("calibrate", ["minmax", "percentile", "entropy"])
def test_methods_of_calibration(
    build: Build, samples: Samples, error: Error, calibrate: str
) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    before = model.clone()
    run_pass(
        QuantStatic(calibrate=calibrate), model, calibration=samples(model, 2, 8, 16, 16, count=16)
    )
    assert error(before, model) < BOUND


def test_an_outlier_ruins_minmax_but_not_percentile(build: Build) -> None:
    text = "g (float[N,64] x) => (float[N,64] y) { t = MatMul(x, w) y = Tanh(t) }"
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (2000, 64)).astype(np.float32)
    x[7, 7] = 3000.0
    scales = {}
    for calibrate in ("minmax", "percentile"):
        model = build(text, w=(64, 64))
        source = CalibrationSource.from_iterable(lambda: [{"x": x}], model.graph.inputs)
        run_pass(QuantStatic(calibrate=calibrate), model, calibration=source)
        scales[calibrate] = float(model.graph.initializers["x_scale"].const_value.numpy())
    assert scales["minmax"] > 10
    assert scales["percentile"] < 0.1


def test_an_old_opset_is_upgraded_first(build: Build, samples: Samples, error: Error) -> None:
    text = """g (float[N,8,16,16] x) => (float[N,16,8,8] y) {
        a = Conv(x, w)
        c = Clip(a)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
        y = Softplus(m)
    }"""
    model = build(text, opset=11, w=(16, 8, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 16, 16))
    assert rewrites(ctx) == {"upgrade-opset": 1, "quant-conv": 1}
    assert model.opset_imports[""] == 13
    assert error(before, model) < BOUND


def test_an_opset_is_not_raised_for_nothing(build: Build, samples: Samples) -> None:
    model = build("g (float[4,4] x) => (float[4,4] y) { y = MatMul(x, x) }", opset=11)
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 4))
    assert model.opset_imports[""] == 11


# --- calibration data --------------------------------------------------------------------------


def test_without_calibration_data(build: Build) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    before = model.clone()
    with pytest.raises(InputError, match="quant-static needs calibration data; give"):
        run_pass(QuantStatic(), model)
    ctx = run_pass(QuantStatic(optional=True), model)
    assert ctx.warnings == [
        "2 Conv stay float: sample inputs (--calib) would let them be quantized too"
    ]
    assert structural_difference(before, model) is None


def test_a_bad_sample_leaves_the_model_as_it_was(build: Build) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    before = model.clone()
    good = {"x": np.zeros((1, 8, 16, 16), np.float32)}
    bad = {"x": np.full((1, 8, 16, 16), np.nan, np.float32)}
    calibration = CalibrationSource.from_iterable(lambda: [good, good, bad], model.graph.inputs)
    with pytest.raises(InputError, match="sample 2: input 'x' contains NaN"):
        run_pass(QuantStatic(), model, calibration=calibration)
    assert structural_difference(before, model) is None


def test_int8_inside_is_counted(build: Build, samples: Samples) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 16, 16))
    quantized = [n for n in model.graph if n.op_type == "Conv" and conv_inputs_are_dequantized(n)]
    assert len(quantized) == 2
    counts = Counter(node.op_type for node in model.graph)
    # x and r, c and s: one pair a value however many ask for it; two weights and two biases.
    assert counts["QuantizeLinear"] == 3
    assert counts["DequantizeLinear"] == 3 + 4
