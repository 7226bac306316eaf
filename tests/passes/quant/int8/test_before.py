# SPDX-License-Identifier: Apache-2.0
"""Q/DQ pairs as TensorRT wants them: where they stand, and what is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.constant import as_array
from burnish.passes.quant.int8.before import place_before
from burnish.passes.shapes import infer_shapes
from burnish.testing import rewrites, run_pass

pytest.importorskip("tensorrt_rtx")

Build = Any
Samples = Any
Error = Any

RESIDUAL = """g (float[N,16,8,8] x) => (float[N,10] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w2)
    s = Add(b, x)
    t = Relu(s)
    m = GlobalAveragePool(t)
    f = Flatten(m)
    y = Gemm<alpha=0.5, beta=2.0>(f, w3, b3)
}"""
WEIGHTS = {"w1": (16, 16, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "w3": (16, 10), "b3": (10,)}


@pytest.fixture(scope="module")
def rtx() -> Target:
    return Target.parse("tensorrt-rtx:sm89")


def producers(model: ir.Model, op_type: str) -> list[list[str | None]]:
    """Op types of what feeds each operator of a type."""
    return [
        [getattr(value.producer(), "op_type", None) for value in node.inputs if value is not None]
        for node in model.graph
        if node.op_type == op_type
    ]


def test_pairs_stand_before_operators_alone(
    build: Build, samples: Samples, error: Error, rtx: Target
) -> None:
    model = build(RESIDUAL, **WEIGHTS)
    before = model.clone()
    ctx = run_pass("quant", model, target=rtx, calibration=samples(model, 2, 16, 8, 8, count=32))
    assert rewrites(ctx).items() >= {"quant-conv": 2, "quant-add": 1, "quant-gemm": 1}.items()
    dq = "DequantizeLinear"
    assert producers(model, "Conv") == [[dq, dq, None], [dq, dq, None]]
    assert producers(model, "Gemm") == [[dq, dq, None]]
    # The sum is computed with the convolution before it; what comes past it is read as int8.
    assert producers(model, "Add") == [["Conv", dq]]
    assert producers(model, "Relu") == [["Conv"], ["Add"]]
    # x is rounded once for the convolution and the sum; so: x, r, and what Gemm takes.
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 3
    assert error(before, model) < 0.03


def test_zero_points_are_zero_and_biases_float(build: Build, samples: Samples, rtx: Target) -> None:
    model = build(RESIDUAL, **WEIGHTS)
    run_pass("quant", model, target=rtx, calibration=samples(model, 2, 16, 8, 8, count=32))
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = as_array(node.inputs[2])
            assert zero_point is not None
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
        if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2:
            bias = as_array(node.inputs[2])
            assert bias is not None
            assert bias.dtype == np.float32


def test_scales_are_large_enough_for_float16(
    build: Build, samples: Samples, error: Error, rtx: Target
) -> None:
    weights = np.random.default_rng(0).normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32)
    weights[3] *= 1e-9  # a channel that a folded BatchNormalization has all but removed
    model = build(RESIDUAL, **WEIGHTS | {"w2": weights})
    before = model.clone()
    data = samples(model, 2, 16, 8, 8, count=32)
    run_pass("quant,float16{check=false}", model, target=rtx, calibration=data)
    scales = [
        as_array(node.inputs[1]) for node in model.graph if node.op_type == "DequantizeLinear"
    ]
    assert all(scale is not None and scale.dtype == np.float16 for scale in scales)
    assert min(float(scale.min()) for scale in scales if scale is not None) >= 2.0**-17
    assert error(before, model) < 0.03


def test_of_two_results_that_are_added_the_later_goes_with_the_sum(build: Build) -> None:
    model = build(
        """g (float[1,8,4,4] x) => (float[1,8,4,4] y) {
            a = Conv(x, w1)
            b = Conv(x, w2)
            y = Add(a, b)
        }""",
        w1=(8, 8, 1, 1),
        w2=(8, 8, 1, 1),
    )
    infer_shapes(model)
    assert [(s.node.op_type, s.inputs) for s in place_before(model).steps] == [
        ("Conv", (0,)),
        ("Conv", (0,)),
        ("Add", (0,)),
    ]


def test_products_need_data_where_there_is_no_dynamic_form(build: Build, rtx: Target) -> None:
    model = build("g (float[N,20] x) => (float[N,20] y) { y = MatMul(x, w) }", w=(20, 20))
    for text in ("quant", "quant{mode=dynamic}"):
        ctx = run_pass(text, model, target=rtx)
        assert rewrites(ctx) == {}
        assert ctx.warnings[-1].startswith(
            "target tensorrt-rtx:sm89 has no dynamic int8: products stay float"
        )


def test_tables_stay_float(build: Build, rtx: Target) -> None:
    model = build("g (int64[N] i) => (float[N,64] y) { y = Gather(t, i) }", t=(2048, 64))
    assert rewrites(run_pass("quant-tables", model, target=rtx)) == {}
    assert rewrites(run_pass("quant-tables", model)) == {"quant-gather": 1}
