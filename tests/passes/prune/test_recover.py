# SPDX-License-Identifier: Apache-2.0
"""Fitting what reads cut units: exact where it can be, never worse on held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.passes.calibration import CalibrationSource
from burnish.testing import run_pass

Weighted = Callable[..., ir.Model]

NETWORKS = {
    "convolutions": (
        "g (float[N,3,8,8] x, float[16,3,3,3] w1, float[16] wa, float[16,16,3,3] w2,"
        " float[6,16,1,1] w3) => (float[N,6,4,4] y)"
        "{ a = Conv<pads=[1,1,1,1]>(x, w1, wa)  r = Relu(a)  b = Conv(r, w2)  s = Sigmoid(b)"
        " y = Conv<kernel_shape=[1,1]>(s, w3) }".replace("float[N,6,4,4]", "float[N,6,6,6]"),
        "prune-channels{ratio=0.4 align=1}",
        (3, 8, 8),
    ),
    "groups": (
        "g (float[N,3,8,8] x, float[16,3,1,1] w1, float[8,8,3,3] w2, float[6,8,1,1] w3) =>"
        "(float[N,6,6,6] y)"
        "{ a = Conv(x, w1)  r = Relu(a)  b = Conv<group=2>(r, w2)  s = Relu(b)  y = Conv(s, w3) }",
        "prune-channels{ratio=0.4 align=1}",
        (3, 8, 8),
    ),
    "products": (
        "g (float[N,6] x, float[6,24] w1, float[24] wa, float[24,12] w2, float[12] wb,"
        " float[5,12] w3) => (float[N,5] y)"
        "{ a0 = MatMul(x, w1)  a = Add(a0, wa)  r = Sigmoid(a)  b0 = MatMul(r, w2)"
        " b = Add(wb, b0)  s = Relu(b)  y = Gemm<transB=1>(s, w3) }",
        "prune-neurons{ratio=0.4 align=1}",
        (6,),
    ),
}


def _samples(shape: tuple[int, ...], seed: int, count: int = 12) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {"x": rng.standard_normal((16, *shape)).astype(np.float32)}


def _error(model: ir.Model, reference: ir.Model, shape: tuple[int, ...]) -> float:
    (feeds,) = _samples(shape, 99, 1)
    with onnxruntime.session(model) as ours, onnxruntime.session(reference) as theirs:
        found, wanted = ours.run(feeds)["y"], theirs.run(feeds)["y"]
    return float(np.square(found - wanted).mean() / wanted.var())


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_lost(name: str, weighted: Weighted) -> None:
    text, pipeline, shape = NETWORKS[name]
    original = weighted(text)
    source = CalibrationSource.from_iterable(lambda: _samples(shape, 1), original.graph.inputs)
    plain, fitted = original.clone(), original.clone()
    run_pass(pipeline, plain)
    ctx = run_pass(pipeline, fitted, calibration=source)
    shapes = [
        sorted(
            tuple(value.shape or ())
            for value in model.graph.initializers.values()
            if len(value.shape or ()) > 1
        )
        for model in (plain, fitted)
    ]
    assert shapes[0] == shapes[1]
    assert _error(fitted, original, shape) < 0.6 * _error(plain, original, shape)
    total = ctx.reports[-1].details["recovery"]["total"]
    assert total["after"] < total["before"]
    assert 1 <= total["changed"] <= total["of"] == 2


def test_what_others_can_say_is_not_lost(weighted: Weighted) -> None:
    """Neurons that are sums of others, and constant ones, are made up for to rounding."""
    model = weighted(
        "g (float[N,6] x, float[6,8] w1, float[8] wa, float[8,5] w2) =>"
        "(float[N,5] y) { a = Gemm(x, w1, wa)  y = Gemm(a, w2) }"
    )
    rng = np.random.default_rng(0)
    base = rng.standard_normal((6, 4)).astype(np.float32)
    dependent = base @ rng.standard_normal((4, 4)).astype(np.float32) * 1e-2
    weights = np.concatenate([base, dependent], 1)
    model.graph.initializers["w1"].const_value = ir.tensor(weights, name="w1")
    readers = np.ones((8, 5), np.float32) * rng.standard_normal((8, 1)).astype(np.float32)
    readers[4:] *= 0.1
    model.graph.initializers["w2"].const_value = ir.tensor(readers, name="w2")
    source = CalibrationSource.from_iterable(lambda: _samples((6,), 1), model.graph.inputs)
    original = model.clone()
    run_pass("prune-neurons{ratio=0.5 align=1}", model, calibration=source)
    assert model.graph.initializers["w1"].shape == [6, 4]
    assert _error(model, original, (6,)) < 1e-9


def test_it_can_be_left_out(weighted: Weighted) -> None:
    text, pipeline, shape = NETWORKS["products"]
    plain, other = weighted(text), weighted(text)
    source = CalibrationSource.from_iterable(lambda: _samples(shape, 1), other.graph.inputs)
    pipeline = pipeline.replace("ratio", "criterion=l2 ratio")
    run_pass(pipeline, plain)
    ctx = run_pass(pipeline[:-1] + " recover=false}", other, calibration=source)
    assert "recovery" not in ctx.reports[-1].details
    assert _error(other, plain, shape) == 0


RESIDUAL = (
    "g (float[N,6] x, float[6,8] w0, float[8,24] w1, float[24,8] w2, float[8,24] w3,"
    " float[24,8] w4, float[8,5] w5) => (float[N,5] y)"
    "{ a = MatMul(x, w0)  b = Gemm(a, w1)  c = Sigmoid(b)  d = Gemm(c, w2)  e = Add(a, d)"
    " f = Gemm(e, w3)  g = Sigmoid(f)  h = Gemm(g, w4)  i = Add(h, e)  y = Gemm(i, w5) }"
)


def test_later_layers_make_up_for_earlier_ones(weighted: Weighted) -> None:
    """What is lost before a residual addition is made up for behind it, though nothing went there.

    The neurons between w1 and w2 are cut and w2 cannot make up for all; w3, w4 and w5 are fitted to
    what they gave in the whole model, w4 and w2 to the sums they go into.
    """
    original = weighted(RESIDUAL)
    source = CalibrationSource.from_iterable(lambda: _samples((6,), 1, 24), original.graph.inputs)
    errors = []
    for options in ("recover=false", "recover=true"):
        model = original.clone()
        text = f"prune-neurons{{ratio=0.8 align=1 exclude=f,w0,w5 {options}}}"
        ctx = run_pass(text, model, calibration=source)
        errors.append(_error(model, original, (6,)))
    layers = ctx.reports[-1].details["recovery"]["layers"]
    assert list(layers) == ["d", "f", "h", "y"]
    assert layers["y"]["after"] < layers["d"]["after"]
    assert errors[1] < 0.3 * errors[0]
