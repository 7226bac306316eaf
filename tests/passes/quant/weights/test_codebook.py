# SPDX-License-Identifier: Apache-2.0
"""Codebooks: what they compute, what the runtime makes of them, sizes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.backends import onnxfile, onnxruntime
from burnish.errors import InputError
from burnish.passes.quant.weights import codebook
from burnish.passes.quant.weights.codebook import Codebook, encode
from burnish.testing import (
    assert_same_outputs,
    refusals,
    rewrites,
    run_pass,
    structural_difference,
)

Build = Any

MATMUL = "g (float[N,96] x) => (float[N,64] y) { y = MatMul(x, w) }"
GEMM = "g (float[N,96] x) => (float[N,64] y) { y = Gemm <transB = 1> (x, w) }"
CONV = "g (float[1,16,9,9] x) => (float[1,32,7,7] y) { y = Conv(x, w) }"
PRODUCT3 = "g (float[2,N,96] x) => (float[2,N,64] y) { y = MatMul(x, w) }"


def held(model: ir.Model, name: str) -> Any:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        (MATMUL, (96, 64), 1),
        (GEMM, (64, 96), 0),
        (CONV, (32, 16, 3, 3), 0),
        (PRODUCT3, (2, 96, 64), 2),
    ],
)
@pytest.mark.parametrize("scope", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_become_the_nearest_levels(
    build: Build, text: str, shape: tuple[int, ...], axis: int, scope: str, bits: int
) -> None:
    model = build(text, w=shape)
    expected = model.clone()
    ctx = run_pass(Codebook(bits=bits, scope=scope), model)
    if scope == "channel" and (bits == 8 or shape[0] == 64 or text is MATMUL):
        assert refusals(ctx) == {"codebook": {"few weights for so many levels": 1}}
        return
    coded = encode(held(expected, "w"), 2**bits, axis=axis if scope == "channel" else None)
    value = expected.graph.initializers["w"]
    value.const_value = ir.tensor(np.ascontiguousarray(coded.decoded()), name="w")
    assert_same_outputs(expected, model)
    assert "w" not in model.graph.initializers
    assert held(model, "w_indices").dtype.name == ("uint4" if bits == 4 else "uint8")
    told = ctx.reports[0].details
    assert told["weight errors"] == {"w": coded.error}
    assert 0 < coded.error < (0.12 if bits == 4 else 0.02)


def test_channels_have_levels_of_their_own(build: Build) -> None:
    """Scales of channels that differ by a million leave nothing of the small ones otherwise."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (8, 512)) * np.geomspace(1e-3, 1e3, 8)[:, None]
    one = encode(weights.astype(np.float32), 16)
    own = encode(weights.astype(np.float32), 16, axis=0)
    worst = [
        max(np.linalg.norm(c.decoded() - weights, axis=1) / np.linalg.norm(weights, axis=1))
        for c in (one, own)
    ]
    assert worst[0] > 0.9
    assert worst[1] < 0.12


def test_the_runtime_looks_levels_up_when_it_loads(build: Build, census: Any) -> None:
    for scope, shape in (("tensor", (96, 64)), ("channel", (512, 64))):
        text = MATMUL.replace("96", str(shape[0]))
        model = build(text, w=shape)
        run_pass(Codebook(scope=scope), model)
        assert len(list(model.graph)) == 3
        assert census(model) == {"MatMul": 1}


def test_size(build: Build) -> None:
    model = build(MATMUL, w=(96, 64))
    ctx = run_pass(Codebook(), model)
    after = 96 * 64 // 2 + 16 * 4
    told = ctx.reports[0].details["bytes"]
    assert told == {"before": 96 * 64 * 4, "after": after, "ratio": after / (96 * 64 * 4)}


def test_tied_and_transposed_weights_are_coded_once(build: Build) -> None:
    text = """g (int64[N,S] i) => (float[N,S,300] y) {
        x = Gather(t, i)
        w = Transpose <perm = [1, 0]> (t)
        y = MatMul(x, w)
    }"""
    model = build(text, t=(300, 64))
    rounded = encode(held(model, "t"), 16).decoded()
    assert rewrites(run_pass(Codebook(), model)) == {"codebook": 1}
    i = np.array([[3, 200, -1]])
    with onnxruntime.session(model) as session:
        actual = session.run({"i": i})["y"]
    np.testing.assert_allclose(actual, rounded[i] @ rounded.T, rtol=1e-4, atol=1e-4)


def test_constant_nodes_and_subgraphs(build: Build) -> None:
    text = """g (float[N,96] x, bool c) => (float[N,64] y) {
        y = If (c) <
            then_branch = t () => (float[N,64] p) { p = MatMul(x, w) },
            else_branch = e () => (float[N,64] q) { n = Neg(x) q = MatMul(n, w) }
        >
    }"""
    model = build(text, w=(96, 64))
    assert rewrites(run_pass(Codebook(), model)) == {"codebook": 1}
    model = build(MATMUL, w=(96, 64))
    before = model.clone()
    node = ir.node("Constant", [], {"value": ir.tensor(held(model, "w"))}, name="c")
    node.outputs[0].name = "held"
    model.graph[0].replace_input_with(1, node.outputs[0])
    del model.graph.initializers["w"]
    model.graph.insert_before(model.graph[0], node)
    run_pass(Codebook(bits=8), model)
    assert "Constant" not in [node.op_type for node in model.graph]
    run_pass(Codebook(bits=8), before)
    assert_same_outputs(before, model)


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((96, 64), {"exclude": ("y",)}, "excluded by name"),
        ((96, 64), {"scope": "channel"}, "few weights for so many levels"),
        (np.full((96, 64), np.nan, np.float32), {}, "its weights are not finite"),
    ],
)
def test_what_stays_float(build: Build, shape: Any, options: dict[str, Any], reason: str) -> None:
    model = build(MATMUL, w=shape)
    before = model.clone()
    assert refusals(run_pass(Codebook(**options), model)) == {"codebook": {reason: 1}}
    assert structural_difference(before, model) is None


def test_small_weights_are_no_news(build: Build) -> None:
    model = build("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", w=(8, 8))
    ctx = run_pass(Codebook(), model)
    assert rewrites(ctx) == {}
    assert refusals(ctx) == {}


def test_bits_that_cannot_be() -> None:
    with pytest.raises(InputError, match="5 is neither 4 nor 8"):
        Codebook(bits=5)


def test_twice_is_once(build: Build) -> None:
    model = build(MATMUL, w=(96, 64))
    run_pass(Codebook(), model)
    assert rewrites(run_pass(Codebook(), model)) == {}


def test_large_weights_are_coded_as_they_are_written(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr(codebook, "LAZY_BYTES", limit)
        model = build(CONV, w=(32, 16, 3, 3))
        run_pass(Codebook(), model)
        tensor = model.graph.initializers["w_indices"].const_value
        assert isinstance(tensor, ir.LazyTensor) == (limit == 0)
        paths.append(tmp_path / f"{limit}.onnx")
        onnxfile.save(model, paths[-1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.zoo
def test_minilm(tmp_path: Path) -> None:
    """An eighth of the size, within 1% of retrieval, and what runs is the float model."""
    from burnish.tools import zoo

    source, output = zoo.fetch("minilm-l6-torchscript"), tmp_path / "small.onnx"
    burnish.optimize(source, "cleanup,codebook", output=output)
    assert output.stat().st_size < 0.13 * source.stat().st_size
    recall = zoo.metric("minilm-l6-torchscript")
    scores = []
    for path in (source, output):
        with onnxruntime.session(path, threads=2, optimize="all") as session:
            scores.append(recall.evaluate(session.run))
    assert scores[1] >= scores[0] * 0.99, scores
