# SPDX-License-Identifier: Apache-2.0
"""`smooth` and `awq`: scales move exactly where there is a place, and only where they help."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.accuracy.awq import rounding_error
from burnish.passes.quant.accuracy.smooth import ChannelRows, int8_error, smoothing
from burnish.testing import assert_same_outputs, refusals, rewrites, run_pass

WIDTH = 64
PLACES = {
    "LayerNormalization": "h = LayerNormalization(x, a, b)  y = MatMul(h, w)",
    "two layers on one norm": "h = LayerNormalization(x, a, b)  t = MatMul(h, w) "
    " s = MatMul(h, v)  y = Add(s, t)",
    "RMSNormalization": "h = RMSNormalization(x, a)  y = MatMul(h, w)",
    "a product, its bias and Relu": "t = MatMul(x, v)  s = Add(t, b)  h = Relu(s) "
    " y = MatMul(h, w)",
    "Gemm": "h = Gemm<transB = 1, alpha = 0.5>(x, v, b)  y = Gemm<beta = 2.0>(h, w, b)",
    "a factor": "t = Tanh(x)  h = Mul(t, a)  y = MatMul(h, w)",
    "a gate": "s = Sigmoid(x)  t = MatMul(x, v)  h = Mul(s, t)  y = MatMul(h, w)",
}


@pytest.fixture
def network(build):  # type: ignore[no-untyped-def]
    """Make a model whose inner channels differ in size by powers of ten."""

    def make(body: str) -> ir.Model:
        spread = (10.0 ** np.linspace(-2, 1, WIDTH)).astype(np.float32)
        rng = np.random.default_rng(5)
        weights = rng.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
        rows = "Gemm<transB" in body
        model = build(
            f"g (float[N,{WIDTH}] x) => (float[N,{WIDTH}] y) {{ {body} }}",
            opset=23,
            a=spread,
            b=rng.normal(0, 0.1, WIDTH).astype(np.float32),
            v=(weights * (spread[:, None] if rows else spread)).astype(np.float32)
            if "two" not in body and "s = MatMul" not in body
            else weights.T.copy(),
            # Small channels count as much as large ones.
            w=(rng.normal(0, 0.1, (WIDTH, WIDTH)) / spread[:, None]).astype(np.float32),
        )
        assert isinstance(model, ir.Model)
        return model

    return make


def feeds(model: ir.Model, count: int = 8) -> CalibrationSource:
    def make():  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(1)
        return [{"x": rng.normal(0, 1, (32, WIDTH)).astype(np.float32)} for _ in range(count)]

    return CalibrationSource.from_iterable(make, model.graph.inputs)


@pytest.mark.parametrize("text", ["smooth", "smooth{search=true}", "awq"])
@pytest.mark.parametrize("place", PLACES)
def test_scales_move_and_the_model_computes_the_same(network, place: str, text: str) -> None:  # type: ignore[no-untyped-def]
    model = network(PLACES[place])
    before = model.clone()
    ctx = run_pass(text, model, calibration=feeds(model))
    name = text.split("{")[0]
    assert rewrites(ctx) == {name: 1}
    assert len(model.graph) == len(before.graph)
    assert_same_outputs(before, model)
    total = ctx.reports[0].details[name]["total"]
    assert total["after"] < total["before"]


REASONS = {
    "others use its input too": "h = LayerNormalization(x, a, b)  t = MatMul(h, w)  y = Add(t, h)",
    "its input is an input of the model": "y = MatMul(x, w)",
    "its input comes from Gelu, which takes no scale": "t = MatMul(x, v)  h = Gelu(t) "
    " y = MatMul(h, w)",
}


@pytest.mark.parametrize("reason", REASONS)
def test_where_there_is_no_place_it_says_so_or_inserts_one(network, reason: str) -> None:  # type: ignore[no-untyped-def]
    model = network(REASONS[reason])
    before = model.clone()
    ctx = run_pass("smooth", model, calibration=feeds(model))
    assert reason in refusals(ctx)["smooth"]
    assert rewrites(ctx) == {}
    if "Gelu" in reason or "others" in reason:
        ctx = run_pass("smooth{insert=true}", model, calibration=feeds(model))
        assert rewrites(ctx)["smooth"] >= 1
        assert "Mul" in [node.op_type for node in model.graph]
        assert_same_outputs(before, model)


def test_equal_channels_are_left_alone(build) -> None:  # type: ignore[no-untyped-def]
    model = build(
        f"g (float[N,{WIDTH}] x) => (float[N,{WIDTH}] y) "
        "{ h = LayerNormalization(x, a)  y = MatMul(h, w) }",
        a=np.ones(WIDTH, np.float32),
        w=np.eye(WIDTH, dtype=np.float32),
    )
    ctx = run_pass("smooth{alpha=0}", model, calibration=feeds(model))
    assert refusals(ctx)["smooth"] == {"the error does not fall on held-out samples": 1}


@pytest.mark.parametrize("text", ["smooth", "awq"])
def test_without_data_it_says_so(network, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="needs calibration data"):
        run_pass(text, network(PLACES["LayerNormalization"]))


def test_factors_are_those_of_the_paper_up_to_their_size() -> None:
    rng = np.random.default_rng(0)
    x, w, v = rng.normal(0, 1, (50, 6)), rng.normal(0, 1, (4, 6)), rng.normal(0, 1, (3, 6))
    peaks = np.abs(x).max(axis=0)
    expected = peaks**0.7 / np.maximum(np.abs(w).max(axis=0), np.abs(v).max(axis=0)) ** 0.3
    found = smoothing(peaks, [w, v], 0.7)
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-12)
    assert np.log(found).mean() == pytest.approx(0, abs=1e-12)
    peaks[2] = 0
    assert smoothing(peaks, [w, v], 0.5)[2] == 1


def test_errors_are_those_of_rounding() -> None:
    rng = np.random.default_rng(0)
    rows, factor = rng.normal(0, 1, (4, 32)).astype(np.float32), np.full(32, 2.0)
    same = rounding_error(rows, factor, 4, 16)
    np.testing.assert_allclose(same, rounding_error(rows, np.ones(32), 4, 16), atol=1e-6)
    x = rng.integers(0, 256, (9, 32)).astype(np.float32)
    exact = np.sign(rows) * 127
    assert int8_error(x, [exact], np.zeros(32), np.full(32, 255.0), np.ones(32)) < 1e-3


def test_rows_kept_are_bounded_and_ranges_are_of_all() -> None:
    kept = ChannelRows(limit=50, each=8)
    whole = np.random.default_rng(0).normal(0, 1, (40, 20, 5)).astype(np.float32)
    for sample in whole:
        kept.update(sample)
    assert 25 <= len(kept.rows) <= 50
    np.testing.assert_array_equal(kept.high, whole.max(axis=(0, 1)))
    with pytest.raises(ValueError, match="not finite"):
        kept.update(np.full((2, 5), np.nan))
