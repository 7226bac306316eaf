# SPDX-License-Identifier: Apache-2.0
"""Quantization parameters: what they represent, how well, and that ONNX agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx.reference import ReferenceEvaluator

from burnish.backends import onnxruntime
from burnish.passes.quant.calibration.observers import Range
from burnish.passes.quant.scheme import (
    QuantParams,
    Scheme,
    activation_params,
    bias_params,
    fit_bias,
    weight_bits,
    weight_params,
)
from burnish.testing import parse

ends = st.floats(-(2.0**40), 2.0**40, width=32)
ranges = st.tuples(ends, ends).map(lambda pair: Range(min(pair), max(pair)))
weights_ = hnp.arrays(np.float32, (4, 3, 2), elements=st.floats(-100, 100, width=32))

# Rounding x / scale to float32 before rounding to an integer.
SLACK = 1 + 1e-4


@given(ranges, st.floats(0, 1), st.sampled_from([np.uint8, np.int8]))
def test_inside_the_range_the_error_is_at_most_half_a_scale(
    values: Range, share: float, dtype: Any
) -> None:
    params = activation_params(values, dtype)
    x = np.float32(values.low + share * (values.high - values.low))
    x = np.clip(x, np.float32(values.low), np.float32(values.high))
    back = params.dequantize(params.quantize(x.reshape(1)))[0]
    assert abs(float(back) - float(x)) <= float(params.scale) / 2 * SLACK


@given(ranges)
def test_zero_is_exact(values: Range) -> None:
    params = activation_params(values)
    assert params.dequantize(params.quantize(np.zeros(1, np.float32)))[0] == 0.0


@given(st.floats(0.015625, 1e6, width=32))
def test_a_range_from_zero_on_saturates_as_a_relu_does(high: float) -> None:
    params = activation_params(Range(0.0, high))
    assert int(params.zero_point) == 0
    assert params.range.low == 0.0
    assert params.range.high == pytest.approx(high, rel=1e-6)


def test_a_range_of_nothing() -> None:
    params = activation_params(Range(0.0, 0.0))
    assert (float(params.scale), int(params.zero_point)) == (1.0, 0)


def test_a_tiny_range_keeps_products_of_scales_normal() -> None:
    params = activation_params(Range(0.0, 1e-38))
    weights = weight_params(np.full((2, 2), 1e-38, np.float32), 0)
    product = bias_params(weights, float(params.scale)).scale
    assert (product >= np.finfo(np.float32).tiny).all()


@given(weights_, st.sampled_from([0, 1, 2, None]), st.sampled_from([7, 8]))
def test_weights_are_symmetric_and_off_by_at_most_half_a_scale(
    weights: np.ndarray, axis: int | None, bits: int
) -> None:
    params = weight_params(weights, axis, bits)
    integers = params.quantize(weights)
    assert integers.dtype == np.int8
    assert not params.zero_point.any()
    assert np.abs(integers.astype(int)).max() <= (127 if bits == 8 else 64)
    scale = params.scale if axis is None else np.moveaxis(weights * 0 + 1, axis, -1) * params.scale
    if axis is not None:
        scale = np.moveaxis(scale, -1, axis)
    # Below the least scale everything rounds to zero, which is as near as float32 comes.
    assert (np.abs(params.dequantize(integers) - weights) <= scale / 2 * SLACK).all()


def test_seven_bits_do_not_overflow_a_sum_of_two_products() -> None:
    assert weight_bits(16) == 7
    assert weight_bits(32) == 8
    weights = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)
    largest = int(np.abs(weight_params(weights, 0, 7).quantize(weights).astype(int)).max())
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    with pytest.raises(ValueError, match="bits"):
        weight_params(weights, 0, 5)


@given(
    weights_,
    hnp.arrays(np.float32, 4, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-6, 1e3),
    st.booleans(),
)
def test_a_bias_fits_int32_whatever_the_weights(
    weights: np.ndarray, bias: np.ndarray, input_scale: float, per_channel: bool
) -> None:
    scheme = weight_params(weights, 0 if per_channel else None)
    fitted = fit_bias(scheme, weights, bias, input_scale)
    params = bias_params(fitted, input_scale)
    integers = params.quantize(bias)
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 * SLACK
    back = params.dequantize(integers)
    np.testing.assert_allclose(back, bias, rtol=1e-6, atol=float(params.scale.max()) / 2 * SLACK)
    # Scales only grow, except where all weights are zero.
    grown = np.broadcast_to(fitted.scale >= scheme.scale, (4,))
    assert (grown | ~weights.any(axis=(1, 2))).all()


def test_a_channel_without_weights_represents_its_bias_well() -> None:
    weights = np.zeros((2, 4), np.float32)
    weights[0] = 1
    bias = np.array([0.25, 0.3], np.float32)
    scheme = fit_bias(weight_params(weights, 0), weights, bias, 0.1)
    params = bias_params(scheme, 0.1)
    assert params.dequantize(params.quantize(bias))[1] == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize(("dtype", "axis"), [(np.uint8, None), (np.int8, 0), (np.int8, 1)])
def test_onnx_agrees(dtype: Any, axis: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (5, 6)).astype(np.float32)
    x[0, 0], x[1, 1] = 1e4, -1e4
    if axis is None:
        params = activation_params(Range(-2.0, 5.0), dtype)
    else:
        params = weight_params(rng.normal(0, 1, (5, 6)).astype(np.float32), axis)
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> '
        "g (float[5,6] x, float[] s, uint8[] z) => (uint8[5,6] q, float[5,6] y) "
        f"{{ q = QuantizeLinear<axis = {axis or 0}>(x, s, z) "
        f"y = DequantizeLinear<axis = {axis or 0}>(q, s, z) }}"
    )
    evaluator = ReferenceEvaluator(onnx.parser.parse_model(text))
    q, y = evaluator.run(None, {"x": x, "s": params.scale, "z": params.zero_point})
    np.testing.assert_array_equal(params.quantize(x), q)
    np.testing.assert_array_equal(params.dequantize(params.quantize(x)), y)


def test_range_of_params() -> None:
    params = QuantParams(np.array(0.5, np.float32), np.array(10, np.uint8))
    assert params.range == Range(-5.0, 122.5)


# --- schemes -------------------------------------------------------------------------------------

SCHEMES = [
    Scheme(dtype, symmetric, power_of_two)
    for dtype in ("uint8", "int8", "uint16", "int16")
    for symmetric in (False, True)
    for power_of_two in (False, True)
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(ranges, st.floats(0, 1))
def test_every_scheme_covers_its_range_and_represents_zero(
    scheme: Scheme, values: Range, share: float
) -> None:
    params = scheme.params(values)
    assert params.dtype == np.dtype(scheme.dtype)
    assert params.dequantize(params.quantize(np.zeros(1, np.float32)))[0] == 0.0
    x = np.float32(values.low + share * (values.high - values.low))
    x = np.clip(x, np.float32(values.low), np.float32(values.high))
    back = params.dequantize(params.quantize(x.reshape(1)))[0]
    # Beside half a step: x / scale, and the result, are rounded to float32.
    assert abs(float(back) - float(x)) <= float(params.scale) / 2 * SLACK + abs(float(x)) * 2e-7
    if scheme.power_of_two:
        assert np.log2(params.scale) == np.rint(np.log2(params.scale))
        assert (
            params.scale < 2 * Scheme(scheme.dtype, scheme.symmetric).params(values).scale * SLACK
        )
    if scheme.symmetric:
        middle = 0 if scheme.dtype.startswith("int") else 2 ** (8 * params.dtype.itemsize - 1)
        assert int(params.zero_point) == middle


@given(weights_, st.sampled_from([0, 1, None]), st.sampled_from(SCHEMES))
def test_fitting_an_array_saturates_nothing(
    weights: np.ndarray, axis: int | None, scheme: Scheme
) -> None:
    params = scheme.fit(weights, axis)
    assert params.scale.shape == (() if axis is None else (weights.shape[axis],))
    error = np.abs(params.dequantize(params.quantize(weights)) - weights)
    scale = np.broadcast_to(
        params.scale if axis is None else np.expand_dims(params.scale, _others(weights, axis)),
        weights.shape,
    )
    assert (error <= scale / 2 * SLACK + np.abs(weights) * 2e-7).all()


def _others(array: np.ndarray, axis: int) -> list[int]:
    return [i for i in range(array.ndim) if i != axis]


def test_a_power_of_two_stays_one() -> None:
    scheme = Scheme("int8", symmetric=True, power_of_two=True)
    assert float(scheme.params(Range(-127.0, 1.0)).scale) == 1.0
    assert float(scheme.params(Range(-127.5, 1.0)).scale) == 2.0
    assert float(scheme.params(Range(0.0, 0.0)).scale) == 1.0


def test_how_many_levels_there_are() -> None:
    assert Scheme().levels == 256
    assert Scheme("int8", symmetric=True).levels == 255
    assert Scheme("int8", symmetric=True, largest=64).levels == 129
    assert Scheme("int16").levels == 65536


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_the_runtime_agrees(dtype: Any, symmetric: bool) -> None:
    scheme = Scheme(dtype, symmetric)
    x = np.random.default_rng(0).normal(0, 3, (5, 60)).astype(np.float32)
    params = scheme.params(Range(-2.0, 5.0))
    model = parse(
        f"g (float[5,60] x, float s, {dtype} z) => ({dtype}[5,60] q, float[5,60] y) "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    with onnxruntime.session(model) as session:
        found = session.run({"x": x, "s": params.scale, "z": params.zero_point})
    np.testing.assert_array_equal(params.quantize(x), found["q"])
    np.testing.assert_array_equal(params.dequantize(found["q"]), found["y"])


def test_of_16_bits_the_runtime_has_no_operators_but_q_and_dq() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    takes: dict[str, set[str]] = {}
    for kernel in get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            types = {t for allowed in kernel.type_constraints.values() for t in allowed}
            takes.setdefault(kernel.op_name, set()).update(types)
    for op in ("QuantizeLinear", "DequantizeLinear"):
        assert {"tensor(int16)", "tensor(uint16)"} <= takes[op]
    for op in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd"):
        assert "tensor(uint8)" in takes[op]
        assert not {"tensor(int16)", "tensor(uint16)"} & takes[op]
