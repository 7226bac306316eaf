# SPDX-License-Identifier: Apache-2.0
"""`adaround`: int8 models come nearer to the float model, and round to what was found."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.scheme import weight_params
from burnish.passes.reconstruct.layer import layers_of
from burnish.testing import refusals, rewrites, run_pass

CONVS = (
    "g (float[N,8,9,9] x) => (float[N,8,H,W] y) "
    "{ t = Conv<pads = [1,1,1,1]>(x, v, b)  r = Relu(t)  d = Conv<group = 16>(r, k) "
    " s = Relu(d)  y = Conv(s, w, c) }"
)
PRODUCTS = (
    "g (float[N,32] x) => (float[N,8] y) "
    "{ t = MatMul(x, m)  u = Add(t, p)  r = Relu(u)  y = Gemm<alpha = 0.5>(r, n, b) }"
)
SIZES = {
    CONVS: {"v": (16, 8, 3, 3), "b": (16,), "k": (16, 1, 3, 3), "w": (8, 16, 3, 3), "c": (8,)},
    PRODUCTS: {"m": (32, 64), "p": (64,), "n": (64, 8), "b": (8,)},
}
SHAPES = {CONVS: (4, 8, 9, 9), PRODUCTS: (64, 32)}


def alike(model: ir.Model, shape: tuple[int, ...], seed: int) -> CalibrationSource:
    """Samples whose channels depend on one another: of independent ones, the nearest is best."""
    mix = np.random.default_rng(0).normal(0, 1, (3, shape[1]))

    def make():  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(seed)
        for _ in range(16):
            causes = rng.normal(0, 1, (shape[0], *shape[2:], 3)) @ mix
            noisy = causes + rng.normal(0, 0.1, causes.shape)
            yield {"x": np.moveaxis(noisy, -1, 1).astype(np.float32)}

    return CalibrationSource.from_iterable(make, model.graph.inputs)


def error(before: ir.Model, after: ir.Model, samples: CalibrationSource) -> float:
    """Squared difference of outputs."""
    total = 0.0
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        for feeds in samples:
            total += float(np.square(old.run(feeds)["y"] - new.run(feeds)["y"]).sum())
    return total


@pytest.mark.parametrize("text", SIZES, ids=["convolutions", "products"])
@pytest.mark.parametrize("per_channel", ["true", "false"])
def test_weights_lie_on_the_grid_and_outputs_come_nearer(  # type: ignore[no-untyped-def]
    build, text: str, per_channel: str
) -> None:
    model = build(text, **SIZES[text])
    rounded = model.clone()
    source = alike(model, SHAPES[text], seed=1)
    ctx = run_pass(f"adaround{{per-channel={per_channel}}}", rounded, calibration=source)
    layers = layers_of(rounded)
    assert rewrites(ctx) == {"adaround": len(layers)}
    plain = model.clone()
    for made in (layers_of(plain), layers):
        for layer in made:
            rows = layer.rows.reshape(-1, layer.fan_in)
            scheme = weight_params(rows, 0 if per_channel == "true" else None)
            real = scheme.dequantize(scheme.quantize(rows))
            if made is layers:
                np.testing.assert_allclose(real, rows, rtol=0, atol=1e-6 * np.abs(rows).max())
            layer.replace(real.reshape(layer.rows.shape))
    unseen = alike(model, SHAPES[text], seed=2)
    assert error(model, rounded, unseen) < 0.9 * error(model, plain, unseen)
    total = ctx.reports[0].details["adaround"]["total"]
    assert total["after"] < 0.9 * total["before"]


def test_weights_that_others_use_are_left_alone(build, samples) -> None:  # type: ignore[no-untyped-def]
    text = "g (float[8,8] x) => (float[8,8] y) { t = MatMul(x, m)  y = Add(t, m) }"
    model = build(text, m=(8, 8))
    ctx = run_pass("adaround", model, calibration=samples(model, 8, 8))
    assert refusals(ctx)["adaround"] == {"its weights are used by other operators too": 1}


def test_two_runs_give_the_same_bytes(build, samples) -> None:  # type: ignore[no-untyped-def]
    made = []
    for _ in range(2):
        model = build(CONVS, **SIZES[CONVS])
        run_pass("adaround,quant-static", model, calibration=samples(model, *SHAPES[CONVS]))
        made.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_without_data_it_says_so(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="needs calibration data"):
        run_pass("adaround", build(PRODUCTS, **SIZES[PRODUCTS]))
