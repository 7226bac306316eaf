# SPDX-License-Identifier: Apache-2.0
"""Averages between int8 convolutions are depthwise convolutions, where they can be.

Numbers are compared with the runtime's own optimizations off: an average is off by half a step of
its output at most, 1e-5 of it for the order of sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.passes.quant.int8.average import convolve, is_convolution
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.shapes import infer_shapes
from burnish.testing import run_pass

Build = Any
Census = Any
Samples = Any

_POOL = "AveragePool<kernel_shape=[3,2], {more}>"
_NET = """g (float[N,16,12,12] x) => (float[N,8,{size}] y) {{
    a = Conv(x, w1)
    p = {pool}(a)
    b = Conv(p, w2)
    y = Softplus(b)
}}"""


def _net(build: Build, more: str, size: str = "H,W") -> ir.Model:
    text = _NET.format(pool=_POOL.format(more=more), size=size)
    model: ir.Model = build(text, w1=(16, 16, 1, 1), w2=(8, 16, 1, 1))
    return model


def _pool(model: ir.Model) -> ir.Node:
    infer_shapes(model)
    return next(node for node in model.graph if node.outputs[0].name == "p")


_WHOLE = [
    "strides=[3,2]",
    "strides=[1,1], dilations=[2,1]",
    'strides=[2,2], auto_pad="VALID"',
    "strides=[1,1], pads=[1,0,1,1], count_include_pad=1",
]


@pytest.mark.parametrize("more", _WHOLE)
def test_an_average_is_a_convolution(build: Build, more: str) -> None:
    before = _net(build, more)
    after = before.clone()
    pool = _pool(after)
    assert is_convolution(pool)
    convolve(pool)
    x = {"x": np.random.default_rng(1).normal(0, 1, (2, 16, 12, 12)).astype(np.float32)}
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        np.testing.assert_allclose(new.run(x)["y"], old.run(x)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", _WHOLE)
def test_it_runs_as_an_integer_convolution(
    build: Build, samples: Samples, census: Census, more: str
) -> None:
    model = _net(build, more)
    float_ = model.clone()
    calibration = samples(model, 4, 16, 12, 12)
    run_pass(QuantStatic(), model, calibration=calibration)
    run = census(model)
    assert run["QLinearConv"] == 3
    assert run["QLinearAveragePool"] == 0
    feeds = next(iter(calibration))
    with onnxruntime.session(model) as new, onnxruntime.session(float_) as old:
        expected, actual = old.run(feeds)["y"], new.run(feeds)["y"]
    assert np.linalg.norm(actual - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "more",
    [
        "strides=[1,1], pads=[1,0,1,1]",
        "strides=[2,2], ceil_mode=1",
        'strides=[1,1], auto_pad="SAME_UPPER"',
    ],
)
def test_an_average_of_fewer_pixels_at_the_border_stays(
    build: Build, samples: Samples, census: Census, more: str
) -> None:
    model = _net(build, more)
    assert not is_convolution(_pool(model.clone()))
    run_pass(QuantStatic(), model, calibration=samples(model, 2, 16, 12, 12))
    assert census(model)["QLinearAveragePool"] == 1


def test_it_stays_for_integers_that_the_kernel_does_not_take(
    build: Build, samples: Samples
) -> None:
    model = _net(build, "strides=[3,2]")
    run_pass(QuantStatic(activations="int8"), model, calibration=samples(model, 2, 16, 12, 12))
    assert "AveragePool" in [node.op_type for node in model.graph]
