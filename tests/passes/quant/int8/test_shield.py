# SPDX-License-Identifier: Apache-2.0
"""What stays float between quantized operators must stay float in the runtime too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.backends.census import executed_model
from burnish.backends.target import Target
from burnish.passes.quant.int8.static import QuantStatic
from burnish.testing import rewrites, run_pass

Build = Any
Samples = Any
Census = Any

CHAIN = """g (float[N,16,8,8] x) => (float[N,16,{size},{size}] y) {{
    a = Conv(x, w1)
    b = {middle}
    r = Relu(b)
    c = Conv(r, w3)
    y = Softplus(c)
}}"""


def uneven(*shape: int, axis: int) -> np.ndarray:
    """Weights whose channels differ a thousandfold, which one scale for all of them destroys."""
    weights = np.random.default_rng(0).normal(0, 0.3, shape)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return (weights * np.geomspace(1e-3, 1, shape[axis]).reshape(sizes)).astype(np.float32)


@pytest.mark.parametrize(
    ("middle", "axis"), [("Conv(a, w2, b2)", 0), ("ConvTranspose(a, w2, b2)", 1)]
)
def test_an_excluded_convolution_is_not_quantized_by_the_runtime(
    build: Build, samples: Samples, census: Census, middle: str, axis: int
) -> None:
    model = build(
        CHAIN.format(middle=middle, size=8),
        w1=(16, 16, 1, 1),
        w2=uneven(16, 16, 1, 1, axis=axis),
        b2=(16,),
        w3=(16, 16, 1, 1),
    )
    calibration = samples(model, 2, 16, 8, 8)
    ctx = run_pass(QuantStatic(exclude=("b",)), model, calibration=calibration)
    assert rewrites(ctx) == {"quant-conv": 2, "keep-float": 1}
    run = census(model)
    assert run["QLinearConv"] == 2
    assert run["Conv"] + run["ConvTranspose"] == 1
    # With the runtime's optimizations and without, it computes the same.
    feeds = next(iter(calibration))
    with (
        onnxruntime.session(model, optimize="off") as plain,
        onnxruntime.session(model, optimize="all") as optimized,
    ):
        expected, actual = plain.run(feeds)["y"], optimized.run(feeds)["y"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_an_excluded_gemm_is_not_quantized_by_the_runtime(
    build: Build, samples: Samples, census: Census
) -> None:
    text = """g (float[N,16] x) => (float[N,16] y) {
        a = Gemm(x, w1)
        b = Gemm(a, w2, b2)
        c = Gemm(b, w3)
        r = Gemm(a, w4)
        y = Add(c, r)
    }"""
    model = build(text, w1=(16, 16), w2=uneven(16, 16, axis=1), b2=(16,), w3=(16, 16), w4=(16, 16))
    calibration = samples(model, 2, 16)
    run_pass(QuantStatic(exclude=("b",)), model, calibration=calibration)
    assert census(model)["Gemm"] == 1
    assert census(model)["QGemm"] == 3


def test_nothing_is_done_where_nothing_threatens(build: Build, samples: Samples) -> None:
    model = build(
        CHAIN.format(middle="Conv(a, w2, b2)", size=8),
        w1=(16, 16, 1, 1),
        w2=(16, 16, 1, 1),
        b2=(16,),
        w3=(16, 16, 1, 1),
    )
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx) == {"quant-conv": 3}


_STEM = """g (float[N,3,16,16] x) => (float[N,8,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    r = Relu(a)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    b = Conv(p, w2)
    c = Conv(b, w3)
    y = Softplus(c)
}"""


def test_a_pool_behind_a_float_convolution_is_not_quantized_by_the_runtime(
    build: Build, samples: Samples
) -> None:
    model = build(_STEM, w1=(16, 3, 3, 3), w2=(16, 16, 1, 1), w3=(8, 16, 1, 1))
    calibration = samples(model, 2, 3, 16, 16)
    ctx = run_pass(QuantStatic(exclude=("a",)), model, calibration=calibration)
    assert rewrites(ctx)["keep-float"] == 1
    (pool,) = (node for node in model.graph if node.op_type == "MaxPool")
    rounding = pool.outputs[0].consumers()[0]
    assert rounding.attributes.get_int("axis") == 1
    assert rounding.inputs[1] is not None
    assert rounding.inputs[1].shape == [16]
    executed = executed_model(model, Target.parse("cpu"))
    (pool,) = (node for node in executed.graph if node.op_type == "MaxPool")
    assert pool.inputs[0] is not None
    maker = pool.inputs[0].producer()
    assert maker is not None
    assert maker.op_type == "Conv"
    with (
        onnxruntime.session(model, optimize="off") as plain,
        onnxruntime.session(model, optimize="all") as optimized,
    ):
        feeds = next(iter(calibration))
        expected, actual = plain.run(feeds)["y"], optimized.run(feeds)["y"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_pool_between_quantized_convolutions_stays_int8(
    build: Build, samples: Samples, census: Census
) -> None:
    model = build(_STEM, w1=(16, 3, 3, 3), w2=(16, 16, 1, 1), w3=(8, 16, 1, 1))
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 3, 16, 16))
    assert "keep-float" not in rewrites(ctx)
    assert census(model)["NhwcMaxPool"] == 1
