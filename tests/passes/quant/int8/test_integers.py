# SPDX-License-Identifier: Apache-2.0
"""Static quantization to other integers: NumPy's numbers, the runtime's kernels, and refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.constant import as_array
from burnish.passes.quant.calibration.observers import Range
from burnish.passes.quant.int8.integers import ACTIVATIONS, WEIGHTS, integers_for
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.quant.scheme import Scheme, bias_params
from burnish.testing import rewrites, run_pass

Build = Any
Samples = Any
Census = Any
Error = Any

PRODUCT = "g (float[N,64] x) => (float[N,48] y) { y = Gemm <transB = 1> (x, w, b) }"
CONVS = """g (float[N,8,16,16] x) => (float[N,8,16,16] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
    c = Conv (m, w2)
    s = Softplus(c)
    y = Conv <pads = [1, 1, 1, 1]> (s, w3)
}"""
CONV_WEIGHTS = {"w1": (32, 8, 3, 3), "b1": (32,), "w2": (16, 32, 1, 1), "w3": (8, 16, 3, 3)}

CHOICES = [
    {"activations": a, "symmetric": s, "weights": w, "power_of_two": p}
    for a, s, w, p in itertools.product(ACTIVATIONS, (False, True), WEIGHTS, (False, True))
    if (a, w) != ("int8", "uint8")
]


def name_of(choice: dict[str, Any]) -> str:
    words = (f"{key}={value}" for key, value in choice.items() if value not in (False, "auto"))
    return " ".join(words)


def vnni(isa: str = "vnni", max_opset: int = 24) -> Target:
    return Target("cpu", "CPUExecutionProvider", frozenset({"sse4.1", "avx2", isa}), max_opset)


def tensorrt() -> Target:
    """Return a target that takes int8 as TensorRT does; nothing is asked of its runtime."""
    return Target("tensorrt", "NvTensorRTRTXExecutionProvider", frozenset(), 23)


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_numbers_are_those_of_the_scheme(
    build: Build, samples: Samples, choice: dict[str, Any]
) -> None:
    """Against the same arithmetic in NumPy, in float64, to float32 rounding."""
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 0.1, (48, 64)).astype(np.float32)
    bias = rng.normal(0, 1, 48).astype(np.float32)
    model = build(PRODUCT, w=weights, b=bias)
    data = samples(model, 4, 64)
    given = np.concatenate([feeds["x"] for feeds in data])
    run_pass(
        QuantStatic(calibrate="minmax", correct_bias=False, **choice),
        model,
        target=vnni(),
        calibration=data,
    )
    x = rng.normal(0, 1, (5, 64)).astype(np.float32)
    with onnxruntime.session(model) as session:
        actual = session.run({"x": x})["y"]

    dtype: Any = "uint8" if choice["activations"] == "auto" else choice["activations"]
    two, symmetric = choice["power_of_two"], choice["symmetric"]
    of_x = Scheme(dtype, symmetric=symmetric, power_of_two=two).params(
        Range(float(given.min()), float(given.max()))
    )
    of_w = Scheme(choice["weights"], symmetric=True, power_of_two=two).fit(weights, axis=0)
    of_b = bias_params(of_w, float(of_x.scale))
    rounded = of_x.dequantize(of_x.quantize(x)).astype(np.float64)
    expected = rounded @ of_w.dequantize(of_w.quantize(weights)).T
    expected += of_b.dequantize(of_b.quantize(bias))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert dtypes(model) == {dtype, choice["weights"], "int32"}


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_convolutions_run_and_are_accurate(
    build: Build, samples: Samples, error: Error, census: Census, choice: dict[str, Any]
) -> None:
    model = build(CONVS, **CONV_WEIGHTS)
    before = model.clone()
    ctx = run_pass(
        QuantStatic(calibrate="minmax", **choice),
        model,
        target=vnni(),
        calibration=samples(model, 4, 8, 16, 16),
    )
    done = rewrites(ctx)  # the last convolution gives an output, and is computed in float
    assert (done["quant-conv"], done["quant-maxpool"]) == (2, 1)
    # A symmetric type spends half of its integers on what a Relu never gives, a power of two up to
    # half of the rest.
    bound = 0.03 * (1 + choice["symmetric"]) * (1 + choice["power_of_two"])
    assert 0 < error(before, model) < bound
    wide = choice["activations"].endswith("16")
    # A Relu is part of rounding only where zero is the least integer.
    assert census(model)["QLinearConv"] == (0 if wide else 1 if choice["symmetric"] else 2)
    x = np.random.default_rng(7).normal(0, 1, (1, 8, 16, 16)).astype(np.float32)
    with onnxruntime.session(model, optimize="all") as session:
        optimized = session.run({"x": x})["y"]
    with onnxruntime.session(before) as session:
        expected = session.run({"x": x})["y"]
    assert np.linalg.norm(optimized - expected) < bound * np.linalg.norm(expected)
    assert len(ctx.warnings) == (wide or choice["symmetric"])


def dtypes(model: ir.Model) -> set[str]:
    """Return the integers that are dequantized."""
    return {
        node.inputs[0].dtype.numpy().name
        for node in model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None
        if node.inputs[0].dtype is not None
    }


def test_sixteen_bits_of_activations_leave_the_error_of_the_weights(
    build: Build, samples: Samples, error: Error
) -> None:
    errors = {}
    for activations in ("uint8", "uint16"):
        model = build(PRODUCT, w=(48, 64), b=(48,))
        before = model.clone()
        data = samples(model, 4, 64)
        run_pass(QuantStatic(calibrate="minmax", activations=activations), model, calibration=data)
        errors[activations] = error(before, model)
    assert errors["uint16"] < 0.9 * errors["uint8"]


@pytest.mark.parametrize("bias", [0.0, 1e9])
def test_all_scales_are_powers_of_two(build: Build, samples: Samples, bias: float) -> None:
    """Also where a bias does not fit int32, so that the weights get another scale."""
    model = build(PRODUCT, w=(48, 64), b=np.full(48, bias, np.float32))
    data = samples(model, 4, 64)
    run_pass(QuantStatic(power_of_two=True), model, calibration=data)
    scales = [
        as_array(node.inputs[1]) for node in model.graph if node.op_type == "DequantizeLinear"
    ]
    assert len(scales) == 3
    for scale in scales:
        assert scale is not None
        np.testing.assert_array_equal(np.frexp(scale)[0], 0.5)


@pytest.mark.parametrize(("weights", "largest"), [("int8", 64), ("uint8", 127)])
def test_unsigned_weights_keep_their_bits_where_sums_saturate(
    build: Build, samples: Samples, weights: str, largest: int
) -> None:
    model = build(PRODUCT, w=(48, 64), b=(48,))
    data = samples(model, 4, 64)
    run_pass(QuantStatic(weights=weights), model, calibration=data, target=vnni("avx2"))
    (integers,) = [
        array.astype(int) - (128 if weights == "uint8" else 0)
        for value in model.graph.initializers.values()
        if (array := as_array(value)) is not None and array.shape == (48, 64)
    ]
    assert np.abs(integers).max() == largest


def test_operators_of_an_old_opset_are_upgraded_for_sixteen_bits(
    build: Build, samples: Samples, error: Error
) -> None:
    model = build(PRODUCT, opset=13, w=(48, 64), b=(48,))
    before = model.clone()
    data = samples(model, 4, 64)
    run_pass(QuantStatic(activations="int16"), model, calibration=data, target=vnni())
    assert model.opset_imports[""] >= 21
    assert error(before, model) < 0.02


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Target.parse("cpu"), {"activations": "int8", "weights": "uint8"}, "no int8 kernel takes"),
        (vnni(max_opset=20), {"activations": "int16"}, "target cpu has no QuantizeLinear to int16"),
        (
            tensorrt(),
            {"activations": "uint8"},
            "target tensorrt takes int8 activations and weights alone, not uint8 and int8",
        ),
        (
            tensorrt(),
            {"activations": "int16"},
            "target tensorrt takes int8 activations and weights alone, not int16 and int8",
        ),
        (
            tensorrt(),
            {"weights": "uint8"},
            "target tensorrt takes int8 activations and weights alone, not int8 and uint8",
        ),
    ],
)
def test_what_a_target_does_not_run_is_refused(
    build: Build, samples: Samples, target: Target, options: dict[str, Any], message: str
) -> None:
    """In one line, before anything is changed or any sample read."""
    model = build(PRODUCT, w=(48, 64), b=(48,))
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(InputError, match=message) as caught:
        run_pass(QuantStatic(**options), model, calibration=samples(model, 4, 64), target=target)
    assert "\n" not in str(caught.value)
    assert ir.to_proto(model).SerializeToString() == before


def test_tensorrt_takes_symmetric_int8() -> None:
    chosen = integers_for(tensorrt(), power_of_two=True)
    assert chosen.activations == Scheme("int8", symmetric=True, power_of_two=True)
    assert chosen.weights == Scheme("int8", symmetric=True, power_of_two=True)
