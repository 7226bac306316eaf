# SPDX-License-Identifier: Apache-2.0
"""What goes along with quantized products: sums, gates, pools, Concat, images of few channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.passes.quant.int8.static import QuantStatic
from burnish.testing import rewrites, run_pass

Build = Any
Samples = Any
Census = Any
Error = Any
Whole = Any

# As in test_static: eight bits in activations and weights, a few layers of them.
BOUND = 0.03


def test_a_residual_sum_between_quantized_convolutions_goes_along(
    pairs_are_whole: Whole, build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16] y) {
        a = Conv(x, w1)
        ar = Relu(a)
        b = Conv <pads = [1, 1, 1, 1]> (ar, w2)
        s = Add(b, ar)
        sr = Relu(s)
        c = Conv(sr, w3)
        y = ReduceMean <axes = [2, 3], keepdims = 0> (c)
    }"""
    model = build(text, opset=17, w1=(16, 16, 1, 1), w2=(16, 16, 3, 3), w3=(16, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 3, "quant-add": 1}
    pairs_are_whole(model)
    assert error(before, model) < BOUND
    run = census(model)
    assert (run["QLinearConv"], run["QLinearAdd"], run["Add"], run["Relu"]) == (3, 1, 0, 0)


def test_a_residual_sum_of_floats_stays_float(build: Build, samples: Samples) -> None:
    """As in PP-OCR and transformers: x + f(x), where x never was uint8."""
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w1)
        g = Softplus(a)
        b = Conv(g, w2)
        y = Add(x, b)
    }"""
    model = build(text, w1=(16, 16, 1, 1), w2=(16, 16, 1, 1))
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 2}
    add = model.graph.outputs[0].producer()
    assert add is not None
    assert add.inputs[0] is model.graph.inputs[0]  # the float stream itself, not rounded


def test_a_residual_sum_of_floats_is_rounded_on_request(
    build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w1)
        g = Softplus(a)
        b = Conv(g, w2)
        s = Add(x, b)
        y = Softplus(s)
    }"""
    model = build(text, w1=(16, 16, 1, 1), w2=(16, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(residual=True), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 2, "quant-add": 1}
    assert error(before, model) < BOUND
    assert census(model)["QLinearAdd"] == 1


def test_a_product_goes_along_where_its_input_is_integer_already(
    build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,10] y) {
        a = Conv(x, w1)
        p = GlobalAveragePool(a)
        s = Reshape(p, rows)
        y = Gemm(s, w2, b2)
    }"""
    rows = np.array([-1, 32], np.int64)
    weights = {"w1": (32, 16, 1, 1), "w2": (32, 10), "b2": (10,), "rows": rows}
    model = build(text, **weights)
    before = model.clone()
    along = QuantStatic(ops=("Conv",), along=("Gemm",))
    ctx = run_pass(along, model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx)["quant-gemm"] == 1
    assert error(before, model) < BOUND
    assert census(model)["QGemm"] == 1
    alone = build("g (float[N,32] x) => (float[N,10] y) { y = Gemm(x, w2, b2) }", **weights)
    assert rewrites(run_pass(along, alone, calibration=samples(alone, 2, 32))) == {}


def test_pooling_and_concat_between_convolutions_go_along(
    pairs_are_whole: Whole, build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,8,16,16] x) => (float[N,8,1,1] y) {
        a = Conv(x, w1)
        ar = Relu(a)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (ar)
        v = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (ar)
        k = Concat <axis = 1> (m, v)
        b = Conv(k, w2)
        y = GlobalAveragePool(b)
    }"""
    model = build(text, w1=(8, 8, 1, 1), w2=(8, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 16, 16))
    assert rewrites(ctx) == {
        "quant-conv": 2,
        "quant-maxpool": 1,
        "quant-averagepool": 1,
        "quant-concat": 1,
    }
    pairs_are_whole(model)
    assert error(before, model) < BOUND
    # The maximum of integers is the integer of the maximum: no scale of its own.
    assert "m_scale" not in model.graph.initializers
    run = census(model)
    assert (run["QLinearConcat"], run["QLinearConv"]) == (1, 3)  # the average is one, too
    assert run["GlobalAveragePool"] == 1  # no quantized operator wants its result
    assert run["NhwcMaxPool"] + run["MaxPool"] == 1
    assert run["DequantizeLinear"] == 1


@pytest.mark.parametrize("op", ["Softmax", "LayerNormalization", "Gelu", "Sigmoid", "Softplus"])
def test_what_needs_its_precision_stays_float(build: Build, samples: Samples, op: str) -> None:
    second = ", scale" if op == "LayerNormalization" else ""
    text = f"""g (float[N,16,8,8] x) => (float[N,16] y) {{
        a = Conv(x, w1)
        s = {op}(a{second})
        b = Conv(s, w2)
        y = ReduceMean <keepdims = 0> (b, axes)
    }}"""
    weights: dict[str, Any] = {
        "w1": (16, 16, 1, 1),
        "w2": (16, 16, 1, 1),
        "axes": np.array([2, 3], np.int64),
    }
    if second:
        weights["scale"] = np.ones(8, np.float32)
    model = build(text, **weights)
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 2}


def test_a_depthwise_convolution_goes_along_between_others(
    build: Build, samples: Samples, census: Census, error: Error
) -> None:
    text = """g (float[N,8,8,8] x) => (float[N,8,1,1] y) {
        six = Constant <value_float = 6.0> ()
        zero = Constant <value_float = 0.0> ()
        a = Conv(x, w1)
        ac = Clip(a, zero, six)
        d = Conv <group = 16, pads = [1, 1, 1, 1]> (ac, wd)
        dc = Clip(d, zero, six)
        b = Conv(dc, w2)
        y = GlobalAveragePool(b)
    }"""
    model = build(text, w1=(16, 8, 1, 1), wd=(16, 1, 3, 3), w2=(8, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 3}
    assert error(before, model) < BOUND
    run = census(model)
    assert (run["QLinearConv"], run["Clip"]) == (3, 0)


GATED = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv(x, w1)
    r = Relu(a)
    d = Conv <group = 16, pads = [1, 1, 1, 1]> (r, wd)
    m = MEAN(d)
    g = HardSigmoid(m)
    p = Mul(d, g)
    c = Conv(p, w2)
    y = Softplus(c)
}"""


@pytest.mark.parametrize("mean", ["GlobalAveragePool", "ReduceMean <axes = [-1, 2]> "])
def test_a_gate_is_rounded_for_the_map_that_it_scales(
    build: Build, samples: Samples, census: Census, error: Error, mean: str
) -> None:
    opset = 21 if mean == "GlobalAveragePool" else 17
    shapes = {"w1": (16, 16, 1, 1), "wd": (16, 1, 3, 3), "w2": (16, 16, 1, 1)}
    model = build(GATED.replace("MEAN", mean), opset, **shapes)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    pooled = {} if mean == "GlobalAveragePool" else {"pool-mean": 1}
    int8 = {"quant-conv": 3, "quant-mul": 1, "quant-globalaveragepool": 1}
    assert rewrites(ctx) == int8 | pooled
    assert error(before, model) < BOUND
    run = census(model)
    assert (run["QLinearConv"], run["QLinearMul"], run["QLinearGlobalAveragePool"]) == (3, 1, 1)
    assert run["Conv"] == run["Mul"] == run["ReduceMean"] == 0


@pytest.mark.parametrize("axes", ["[2]", "[1, 2, 3]"])
def test_other_means_are_no_pools(build: Build, samples: Samples, axes: str) -> None:
    model = build(
        GATED.replace("MEAN", f"ReduceMean <axes = {axes}> "),
        17,
        w1=(16, 16, 1, 1),
        wd=(16, 1, 3, 3),
        w2=(16, 16, 1, 1),
    )
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert "pool-mean" not in rewrites(ctx)


@pytest.mark.parametrize(("channels", "kernel"), [(1, (3, 3)), (3, (3, 3)), (3, (7, 5)), (2, (3,))])
def test_an_image_gets_four_channels(
    build: Build,
    samples: Samples,
    census: Census,
    error: Error,
    channels: int,
    kernel: tuple[int, ...],
) -> None:
    """A multiple of four products behind each output: their copying takes twice as long if not."""
    sizes = ",".join(["12"] * len(kernel))
    pads = [size // 2 for size in kernel] * 2
    model = build(
        f"""g (float[N,{channels},{sizes}] x) => (float[N,8,{sizes}] y) {{
            a = Conv <pads = {pads}> (x, w)
            y = Softplus(a)
        }}""",
        w=(8, channels, *kernel),
    )
    before = model.clone()
    shape = (2, channels, *[12] * len(kernel))
    run_pass(QuantStatic(), model, calibration=samples(model, *shape))
    assert error(before, model) < BOUND
    run = census(model)
    assert (run["QLinearConv"], run["Pad"], run["Conv"]) == (1, 1, 0)
    (weights,) = (v.shape for v in model.graph.initializers.values() if v.name == "w_int8")
    assert weights == (8, 4, *kernel)
    quantizers = [n for n in model.graph if n.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2  # of the input and of the result: nothing is left over


def test_whole_groups_of_products_are_not_filled(build: Build, samples: Samples) -> None:
    text = """g (float[N,2,8,8] x) => (float[N,8,8,8] y) {
        a = Conv <pads = [0, 0, 1, 1]> (x, w)
        y = Softplus(a)
    }"""
    model = build(text, w=(8, 2, 2, 2))
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 2, 8, 8))
    assert not any(node.op_type == "Pad" for node in model.graph)


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_all_users_of_a_product_take_the_rounded_result_or_none(
    build: Build, samples: Samples, census: Census, error: Error, op: str
) -> None:
    text = f"""g (float[N,32] x) => (float[N,32] y, float[N,32] z) {{
        a = {op}(x, w1)
        b = {op}(a, w2)
        y = Softplus(b)
        z = Tanh(a)
    }}"""
    model = build(text, w1=(32, 32), w2=(32, 32))
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 4, 32))
    run = census(model)
    assert run[op] == 0
    assert run["QLinearMatMul"] + run["MatMulIntegerToFloat"] + run["QGemm"] == 2
    assert error(before, model) < BOUND


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_over_one_two_and_three_axes(
    build: Build, samples: Samples, census: Census, error: Error, rank: int
) -> None:
    sizes = ",".join(["8"] * rank)
    text = f"""g (float[N,16,{sizes}] x) => (float[N,16,{sizes}] y) {{
        a = Conv(x, w, b)
        y = Softplus(a)
    }}"""
    model = build(text, w=(16, 16, *[1] * rank), b=(16,))
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, *[8] * rank))
    assert error(before, model) < BOUND
    assert census(model)["QLinearConv"] == 1


def test_an_activation_inside_a_subgraph_is_not_absorbed(
    build: Build, samples: Samples, error: Error
) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w)
        c = Constant <value = bool {1}> ()
        y = If(c) <
            then_branch = t () => (float[N,16,8,8] p) { p = Relu(a) },
            else_branch = e () => (float[N,16,8,8] q) { q = Identity(x) }
        >
    }"""
    model = build(text, w=(16, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 1}
    assert "a_scale" in model.graph.initializers
    assert error(before, model) < BOUND


JOINED = """g (float[N,8,8,8] x) => (float[N,16,8,8] y) {
    a = Conv (x, w1)
    b = Conv (x, w2)
    p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b)
    c = Conv (x, w3)
    %s
    j = Concat <axis = 1> (a, p, r)
    d = Conv (j, w4)
    s = Softplus(d)
    y = Conv (s, w5)
}"""


@pytest.mark.parametrize(
    ("third", "shared"),
    [
        ("r = LeakyRelu(c)", {"a", "p", "r"}),
        ("r = Relu(c)", {"a", "p"}),  # of a range below 0, whose rounding is no Relu
        ("r = Clip(c, low, high)", {"a", "p"}),
        ("h = HardSwish(c) r = BatchNormalization (h, one, low, low, one)", {"a", "p"}),
    ],
)
def test_what_is_joined_shares_a_scale(
    build: Build, samples: Samples, error: Error, third: str, shared: set[str]
) -> None:
    weights: dict[str, Any] = {f"w{i + 1}": (16, 8, 1, 1) for i in range(3)}
    weights |= {"w4": (16, 48, 1, 1), "w5": (16, 16, 1, 1)}
    if "Clip" in third:
        weights |= {"low": np.array(0, np.float32), "high": np.array(1, np.float32)}
    if "BatchNormalization" in third:
        weights |= {"low": np.full(16, 0.5, np.float32), "one": np.ones(16, np.float32)}
    model = build(JOINED % third, **weights)
    before = model.clone()
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 8, 8))
    join = next(node for node in model.graph if node.op_type == "Concat")
    (scale,) = (user.inputs[1] for user in join.outputs[0].consumers())
    own = {}
    for value in join.inputs:
        assert value is not None
        maker = value.producer()
        assert maker is not None
        own[(value.name or "").partition("_")[0]] = maker.inputs[1]
    assert {name for name, found in own.items() if found is scale} == shared
    assert 0 < error(before, model) < BOUND


def test_what_goes_elsewhere_keeps_its_scale(build: Build, samples: Samples) -> None:
    text = (JOINED % "r = Add(c, a)").replace("d = Conv (j, w4)", "t = Conv (j, w4) d = Add(t, b)")
    weights = {f"w{i + 1}": (16, 8, 1, 1) for i in range(3)}
    model = build(text, **weights, w4=(16, 48, 1, 1), w5=(16, 16, 1, 1))
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 8, 8))
    join = next(node for node in model.graph if node.op_type == "Concat")
    makers = [value.producer() for value in join.inputs if value is not None]
    scales = [maker.inputs[1] for maker in makers if maker is not None]
    (scale,) = (user.inputs[1] for user in join.outputs[0].consumers())
    assert [found is scale for found in scales] == [False, False, True]
