# SPDX-License-Identifier: Apache-2.0
"""HardSwish and uniform shifts on integers: the numbers, what the runtime runs, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.quant.calibration.observers import Range
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.quant.int8.swish import hard_swish_params, shifted_params, uniform_affine
from burnish.testing import refusals, rewrites, run_pass

Build = Any
Samples = Any
Census = Any
Error = Any

BLOCK = """g (float[N,16,16,16] x) => (float[N,16,16,16] y) {
    a = Conv (x, w1, b1)
    h = HardSwish(a)
    s = BatchNormalization <epsilon = 0.0> (h, scale, shift, mean, variance)
    d = Conv <pads = [1, 1, 1, 1], group = 32> (s, wd, b1)
    e = HardSwish(d)
    c = Conv (e, w2, b2)
    z = Softplus(c)
    y = Conv <pads = [1, 1, 1, 1]> (z, w3)
}"""
WEIGHTS: dict[str, Any] = {
    "w1": (32, 16, 1, 1),
    "b1": (32,),
    "wd": (32, 1, 3, 3),
    "w2": (16, 32, 1, 1),
    "b2": (16,),
    "w3": (16, 16, 3, 3),
    "mean": np.zeros(32, np.float32),
    "variance": np.ones(32, np.float32),
}


def block(build: Build, scale: float = 1.0, shift: float = -0.7) -> ir.Model:
    model: ir.Model = build(
        BLOCK,
        **WEIGHTS,
        scale=np.full(32, scale, np.float32),
        shift=np.full(32, shift, np.float32),
    )
    return model


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -0.7), (1.3, 0.15), (0.8, 2.0), (1.0, 0.0)])
def test_block_stays_int8(
    build: Build, samples: Samples, census: Census, error: Error, scale: float, shift: float
) -> None:
    model = block(build, scale, shift)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 16, 16))
    assert rewrites(ctx) == {
        "quant-conv": 3,
        "quant-hardswish": 2,
        "quant-batchnormalization": 1,
    }
    assert 0 < error(before, model) < 0.03  # as for convolutions alone
    ran = census(model)
    assert (ran["QLinearConv"], ran["QLinearMul"], ran["QuantizeLinear"]) == (3, 2, 1)
    assert not ran["BatchNormalization"]
    assert not ran["HardSigmoid"]


def test_others_may_take_what_is_shifted(build: Build, samples: Samples, error: Error) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv (x, w1, b1)
        s = BatchNormalization <epsilon = 0.0> (a, scale, shift, mean, variance)
        c = Conv <pads = [1, 1, 1, 1]> (s, w3)
        d = Conv <pads = [1, 1, 1, 1]> (a, w4)
        e = Add(c, d)
        z = Softplus(e)
        y = Conv (z, w2, b2)
    }"""
    weights = {**WEIGHTS, "w3": (16, 32, 3, 3), "w4": (16, 32, 3, 3), "w2": (16, 16, 1, 1)}
    del weights["wd"]
    constants = {"scale": np.full(32, 2, np.float32), "shift": np.full(32, 0.5, np.float32)}
    model = build(text, **weights, **constants)
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert rewrites(ctx)["quant-batchnormalization"] == 1
    assert 0 < error(before, model) < 0.03


def hard_swish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1))


@pytest.mark.parametrize("high", [0.5, 3.0, 7.3, 40.0, 300.0])
def test_bends_are_integers(high: float) -> None:
    params = hard_swish_params(Range(-20.0, high))
    assert params is not None
    q = np.arange(256)
    x = params.dequantize(q)
    assert x[0] == pytest.approx(-3.0, rel=1e-6)
    assert x[-1] >= high * (1 - 1e-6)
    gate = np.minimum(q, 2 * int(params.zero_point)) * float(params.scale) / 6
    np.testing.assert_allclose(x * gate, hard_swish(x), rtol=1e-5, atol=1e-6)


def test_too_wide_for_bends(build: Build, samples: Samples) -> None:
    assert hard_swish_params(Range(-1.0, 500.0)) is None
    model = build(
        BLOCK,
        **{**WEIGHTS, "b1": np.full(32, 600, np.float32)},
        scale=np.ones(32, np.float32),
        shift=np.zeros(32, np.float32),
    )
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 16, 16))
    assert refusals(ctx)["quant-hardswish"] == {
        "its bends are no integers at the scale of its input": 2
    }


def test_what_others_take_is_not_cut(build: Build, samples: Samples, error: Error) -> None:
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv (x, w1, b1)
        h = HardSwish(a)
        c = Conv (h, w2, b2)
        d = Conv (a, w2, b2)
        e = Sub(c, d)
        y = Conv (e, w2b)
    }"""
    weights = {name: WEIGHTS[name] for name in ("w1", "b1", "w2", "b2")}
    weights["w1"] = np.random.default_rng(0).normal(0, 2, (32, 16, 1, 1)).astype(np.float32)
    model = build(text, **weights, w2b=(16, 16, 1, 1))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 8, 8))
    assert refusals(ctx)["quant-hardswish"] == {
        "something else takes its input, below its bends too": 1
    }
    assert error(before, model) < 0.03


@pytest.mark.parametrize("options", [{"symmetric": True}, {"power_of_two": True}])
def test_other_integers_are_refused(
    build: Build, samples: Samples, error: Error, options: dict[str, Any]
) -> None:
    model = block(build)
    before = model.clone()
    ctx = run_pass(QuantStatic(**options), model, calibration=samples(model, 2, 16, 16, 16))
    reason = "only uint8 with any scale and zero point can be read in two ways"
    found = refusals(ctx)
    assert found["quant-hardswish"] == {reason: 2}
    assert found["quant-batchnormalization"] == {reason: 1}
    assert error(before, model) < 0.05


@pytest.mark.parametrize("shift", [-3.0, -0.01, 0.0, 0.3, 5.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_shift_reads_the_same_integers(scale: float, shift: float) -> None:
    values = Range(shift - 0.375 * scale, shift + 4.0 * scale)
    given, read = shifted_params(values, scale, shift)
    q = np.arange(256, dtype=np.uint8)
    found, exact = read.dequantize(q), scale * given.dequantize(q) + shift
    # A shift of eight steps and more is a whole number of them; else it is rounded to one.
    slack = float(read.scale) / 2 if abs(shift) < 8 * float(read.scale) else 1e-4
    np.testing.assert_allclose(found, exact, atol=slack)
    assert found.min() <= values.low + float(read.scale)
    assert found.max() >= values.high - float(read.scale)
    assert float(read.dequantize(read.zero_point[None])[0]) == 0.0  # what padding writes


def test_affine_that_differs_by_channel_is_none(build: Build) -> None:
    model = block(build)
    node = next(node for node in model.graph if node.op_type == "BatchNormalization")
    assert uniform_affine(node) == pytest.approx((1.0, -0.7))
    different = build(
        BLOCK,
        **WEIGHTS,
        scale=np.linspace(1, 2, 32, dtype=np.float32),
        shift=np.zeros(32, np.float32),
    )
    node = next(node for node in different.graph if node.op_type == "BatchNormalization")
    assert uniform_affine(node) is None
    negative = block(build, scale=-1.0)
    node = next(node for node in negative.graph if node.op_type == "BatchNormalization")
    assert uniform_affine(node) is None
