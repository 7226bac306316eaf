# SPDX-License-Identifier: Apache-2.0
"""`balance`: the same outputs, and int8 that is nearer to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.calibration import CalibrationSource
from burnish.passes.pipeline import Pipeline
from burnish.passes.quant.accuracy import balance
from burnish.passes.quant.accuracy.balance import ChannelReach, Reader, factors
from burnish.testing import assert_same_outputs, refusals, rewrites, run_pass

Build = Callable[..., ir.Model]
Samples = Callable[..., CalibrationSource]
Error = Callable[[ir.Model, ir.Model], float]

BODY = """g (float[N,16,8,8] x) => (float[N,20,H,W] y) {
    a = Conv(x, v, b)
    d = Conv<group = 32, pads = [1, 1, 1, 1]>(a, k)
    s = Add(a, d)
    c = Conv(s, w)
    y = Identity(c)
}"""
QUANTIZE = "quant-static{ops=Conv residual=true}"


def make(build: Build, spread: float, size: int = 1) -> ir.Model:
    rng = np.random.default_rng(0)
    reach = np.exp(rng.normal(0, spread, 32)).astype(np.float32)
    v = rng.normal(0, 0.2, (32, 16, 1, 1)).astype(np.float32) * reach[:, None, None, None]
    w = rng.normal(0, 0.2, (20, 32, size, size)).astype(np.float32) / reach[:, None, None]
    k = rng.normal(0, 0.2, (32, 1, 3, 3)).astype(np.float32)
    return build(BODY, v=v, b=(32,), k=k, w=w)


def test_channels_unlike_each_other_lose_less_in_int8(
    build: Build, samples: Samples, error: Error
) -> None:
    plain = make(build, 1.5)
    before, model = plain.clone(), plain.clone()
    data = samples(plain, 1, 16, 8, 8, count=16)
    ctx = run_pass("balance", model, calibration=data)
    assert rewrites(ctx) == {"balance-channels": 1}
    assert refusals(ctx) == {"balance-channels": {"it is an input or an output of the model": 1}}
    assert_same_outputs(before, model)
    assert [v.name for v in model.graph.initializers.values()] == [
        v.name for v in before.graph.initializers.values()
    ]
    run_pass(QUANTIZE, plain, calibration=data)
    run_pass(QUANTIZE, model, calibration=data)
    assert error(before, model) < 0.6 * error(before, plain)


def test_alike_channels_stay(build: Build, samples: Samples) -> None:
    model = make(build, 0.0, size=3)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        shape = value.const_value.shape.numpy()
        taps = np.linspace(0.3, 1, shape[-1] if len(shape) > 1 else 1, dtype=np.float32)
        value.const_value = ir.tensor(np.broadcast_to(taps, shape).copy())
    ctx = run_pass("balance", model, calibration=samples(model, 1, 16, 8, 8, count=4))
    assert rewrites(ctx) == {}
    assert "its channels suit int8 as they are" in refusals(ctx)["balance-channels"]


@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_weights_that_adaround_has_rounded_stay(
    build: Build, samples: Samples, per_channel: str
) -> None:
    model = make(build, 1.5)
    data = samples(model, 1, 16, 8, 8, count=8)
    run_pass(f"adaround{{per-channel={per_channel}}}", model, calibration=data)
    ctx = run_pass("balance", model, calibration=data)
    assert rewrites(ctx) == {}
    reason = "the weights that read it are rounded to int8 already"
    assert refusals(ctx)["balance-channels"][reason] == 1


def test_without_data_nothing_happens(build: Build) -> None:
    assert rewrites(run_pass("balance", make(build, 1.5))) == {}


def test_activations_that_are_not_finite_stay(build: Build) -> None:
    model = make(build, 1.5)
    model.graph.initializers["k"].const_value = ir.tensor(np.full((32, 1, 3, 3), 3e38, np.float32))
    sample = {"x": np.full((1, 16, 8, 8), 1e3, np.float32)}
    data = CalibrationSource.from_iterable(lambda: [sample], model.graph.inputs)
    ctx = run_pass("balance", model, calibration=data)
    assert rewrites(ctx) == {}
    reason = "its activations are not finite on the calibration data"
    assert refusals(ctx)["balance-channels"][reason] == 1


def test_quant_balances_unless_ranges_are_given() -> None:
    assert "balance," in str(Pipeline.of("quant").expand())
    assert "balance," not in str(Pipeline.of("quant{mode=dynamic}").expand())
    assert "balance," not in str(Pipeline.of("quant{ranges=r.json}").expand())


def test_factors_make_reaches_alike_and_leave_dead_channels() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([0.0, 1.0, 10.0, 0.1])
    reach = ChannelReach()
    for _ in range(4):
        reach.update((rng.normal(0, 1, (1, 4, 6, 6)) * sizes[:, None, None]).astype(np.float32))
    weights = rng.normal(0, 1, (1, 8, 4, 1)) / np.maximum(sizes, 0.1)[:, None]
    reader = Reader(weights, reach.peak.reshape(1, 1, 4, 1), reach.square.reshape(1, 1, 4, 1))
    found = factors([reach], [reader])
    assert found is not None
    assert found[3] < found[1] < found[2]
    assert np.isfinite(found).all()
    shaped = found.reshape(1, 1, 4, 1)
    assert reader.noise(shaped) < 0.5 * reader.noise(np.ones_like(shaped))
    assert reader.noise(shaped) == pytest.approx(reader.noise(3 * shaped))


def test_predicted_noise_is_that_of_int8() -> None:
    """Uniform numbers, so that rounding is all there is."""
    from burnish.passes.quant.calibration.observers import Range
    from burnish.passes.quant.scheme import activation_params, weight_params

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 32)) * rng.uniform(0.1, 1, 32)
    w = rng.normal(0, 1, (16, 32))
    peak, square = np.abs(x).max(axis=0), np.square(x).mean(axis=0)
    found = Reader(w.reshape(1, 16, 32, 1), peak.reshape(1, 1, 32, 1), square.reshape(1, 1, 32, 1))
    act = activation_params(Range(-float(peak.max()), float(peak.max())))
    by_channel = weight_params(w, 0)
    rounded = act.dequantize(act.quantize(x)) @ by_channel.dequantize(by_channel.quantize(w)).T
    actual = np.square(rounded - x @ w.T).sum() / np.square(x @ w.T).sum()
    assert found.noise(np.ones((1, 1, 32, 1))) == pytest.approx(actual, rel=0.1)


def test_factors_that_make_int8_worse_are_not_taken(
    build: Build, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the formula asks for is measured, whatever it says."""
    model = make(build, 0.0)
    steep = np.geomspace(1e-3, 1e3, 32)
    monkeypatch.setattr(balance, "factors", lambda *_: steep)
    before = model.clone()
    ctx = run_pass("balance", model, calibration=samples(model, 1, 16, 8, 8, count=8))
    assert rewrites(ctx) == {}
    reason = "outputs are as near in int8 without factors, by measurement"
    assert refusals(ctx)["balance-channels"][reason] == 1
    assert_same_outputs(before, model)


def test_ranges_found_before_are_found_again(build: Build, samples: Samples) -> None:
    plain = make(build, 1.5)
    model = plain.clone()
    data = samples(plain, 1, 16, 8, 8)
    run_pass("balance,quant-static{ops=Conv}", plain, calibration=data)
    run_pass(
        "mixed-precision{max_drop=0.9},balance,quant-static{ops=Conv}", model, calibration=data
    )
    assert_same_outputs(plain, model)
