# SPDX-License-Identifier: Apache-2.0
"""`quant-weights{method=gptq}`: outputs closer to the float model's, or the weights as before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.testing import refusals, run_pass

TEXT = "g (float[N,96] x) => (float[N,64] y) { h = MatMul(x, v)  r = Relu(h)  y = MatMul(r, w) }"


def correlated(model: ir.Model, seed: int, count: int = 16) -> CalibrationSource:
    mix = np.random.default_rng(0).normal(0, 0.1, (12, 96))

    def feeds():  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(seed)
        for _ in range(count):
            x = rng.normal(0, 1, (40, 12)) @ mix + rng.normal(0, 0.02, (40, 96))
            yield {"x": x.astype(np.float32)}

    return CalibrationSource.from_iterable(feeds, model.graph.inputs)


def output_error(before: ir.Model, after: ir.Model, samples: CalibrationSource) -> float:
    from burnish.backends import onnxruntime

    squares = size = 0.0
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        for feeds in samples:
            expected = old.run(feeds)["y"]
            squares += float(np.square(new.run(feeds)["y"] - expected).sum())
            size += float(np.square(expected).sum())
    return float(np.sqrt(squares / size))


@pytest.mark.parametrize("form", ["nbits", "dequantize"])
def test_outputs_come_closer_to_those_of_the_float_model(build, form: str) -> None:  # type: ignore[no-untyped-def]
    model = build(TEXT, v=(96, 128), w=(128, 64))
    unseen = correlated(model, 5)
    errors = {}
    for method in ("rtn", "gptq"):
        made = model.clone()
        ctx = run_pass(
            f"quant-weights{{method={method} form={form} compute=float32}}",
            made,
            calibration=correlated(model, 1),
        )
        errors[method] = output_error(model, made, unseen)
    assert errors["gptq"] < 0.75 * errors["rtn"]
    total = ctx.reports[0].details["gptq"]["total"]
    assert total["changed"] == total["of"] == 2
    assert total["after"] < 0.75 * total["before"]


def test_two_runs_give_the_same_bytes(build) -> None:  # type: ignore[no-untyped-def]
    made = []
    for _ in range(2):
        model = build(TEXT, v=(96, 128), w=(128, 64))
        text = "quant-weights{method=gptq act-order=true}"
        run_pass(text, model, calibration=correlated(model, 1))
        made.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_a_layer_that_gains_nothing_is_rounded_plainly(build) -> None:  # type: ignore[no-untyped-def]
    model = build("g (float[N,96] x) => (float[N,64] y) { y = MatMul(x, w) }", w=(96, 64))
    plain = model.clone()
    # On a single row of fitting data GPTQ learns nothing that holds for others.
    first = np.random.default_rng(3).normal(0, 1, (1, 96)).astype(np.float32)
    rest = np.random.default_rng(4).normal(0, 1, (500, 96)).astype(np.float32)
    feeds = [{"x": first}] * 3 + [{"x": rest}]
    source = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    ctx = run_pass("quant-weights{method=gptq damping=0.0001}", model, calibration=source)
    run_pass("quant-weights", plain)
    assert refusals(ctx)["gptq"] == {"the error does not fall on held-out samples": 1}
    for name, value in plain.graph.initializers.items():
        assert value.const_value is not None
        other = model.graph.initializers[name].const_value
        assert other is not None
        np.testing.assert_array_equal(value.const_value.numpy(), other.numpy())


def test_without_data_it_says_so(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="needs calibration data"):
        run_pass("quant-weights{method=gptq}", build(TEXT, v=(96, 128), w=(128, 64)))
