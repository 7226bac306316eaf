# SPDX-License-Identifier: Apache-2.0
"""Zeros and N:M conformity, of float weights and of what quantization makes of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.pattern import Kept
from burnish.passes.prune.survey import Survey, survey
from burnish.passes.shapes import infer_shapes
from burnish.testing import run_pass

Array = np.ndarray[Any, np.dtype[Any]]
Weighted = Callable[..., ir.Model]

NETWORK = """g (float[2,32] x, float[32,64] w1, float[64,64] w2, float[64] w3) => (float[2,64] y) {
    a = MatMul(x, w1)  b = Relu(a)  y = Gemm <transB = 1> (b, w2, w3)
}"""
CONVOLUTION = """g (float[1,8,12,12] x, float[16,8,3,3] w1, float[16] w2, float[16,16,3,3] w3)
                 => (float[1,16,12,12] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, w2)  b = Relu(a)
    y = Conv <pads = [1, 1, 1, 1]> (b, w3)
}"""


def surveyed(model: ir.Model) -> Survey:
    infer_shapes(model)
    return survey(model, Kept(2, 4))


def samples(model: ir.Model) -> CalibrationSource:
    shape = [int(str(size)) for size in model.graph.inputs[0].shape or ()]

    def give() -> Iterator[dict[str, Array]]:
        rng = np.random.default_rng(0)
        for _ in range(8):
            yield {"x": rng.standard_normal(shape).astype(np.float32)}

    return CalibrationSource.from_iterable(give, model.graph.inputs)


def test_counts_of_a_model(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    array = model.graph.initializers["w1"].const_value
    assert array is not None
    sparse = array.numpy().copy()
    sparse[::2] = 0  # along K: half of each four
    sparse[:8, 0] = 1  # but for two groups of one column
    model.graph.initializers["w1"].const_value = ir.tensor(sparse, name="w1")
    found = surveyed(model)
    first, second = found.layers
    assert (first.weight, first.shape, first.elements) == ("w1", (32, 64), 2048)
    assert first.zeros == 16 * 64 - 4
    assert first.conform == 1 - 2 / (8 * 64)
    assert first.flops == 2 * 2 * 32 * 64
    assert (second.zeros, second.conform) == (0, 0.0)
    assert found.bytes["dense"] == 4 * (2048 + 4096)
    data = found.as_dict()
    assert data["total"]["zeros"] == first.zeros
    assert data["total"]["flops"] == 2 * 2 * 64 * (32 + 64)
    weights = (sparse, model.graph.initializers["w2"].const_value)
    deflated = sum(len(zlib.compress(np.asarray(w).tobytes())) for w in weights)
    assert found.bytes["deflated"] == deflated


def test_shared_weights_count_once(weighted: Weighted) -> None:
    model = weighted("""g (float[2,32] x, float[32,32] w1) => (float[2,32] y) {
        a = MatMul(x, w1)  y = MatMul(a, w1) }""")
    found = surveyed(model)
    assert [layer.shared for layer in found.layers] == [False, True]
    assert found.as_dict()["total"]["elements"] == 1024


@pytest.mark.parametrize("text", [NETWORK, CONVOLUTION])
@pytest.mark.parametrize(
    "quantization",
    [
        "quant-static",
        "quant-dynamic",
        "adaround,quant-static",
        "smooth,quant-dynamic",
        "equalize,quant-static",
    ],
)
@pytest.mark.parametrize("order", ["prune{OPTIONS},fuse,", "fuse,prune{OPTIONS},"])
def test_zeros_and_patterns_survive_quantization(
    weighted: Weighted, text: str, quantization: str, order: str
) -> None:
    model = weighted(text)
    source = samples(model)
    pipeline = order.replace("OPTIONS", "pattern=2:4 min-size=0") + quantization
    ctx = run_pass(pipeline, model, calibration=source)
    quantized = [report.changed for report in ctx.reports if report.text in quantization]
    assert quantized[-1] or "dynamic" in quantization
    found = surveyed(model)
    assert len(found.layers) == 2
    for layer in found.layers:
        assert layer.conform == 1.0
        assert layer.sparsity >= 0.5
    if "static" in quantization or text == NETWORK:
        assert {layer.dtype for layer in found.layers} & {"int8", "uint8"}


def test_weights_stored_as_one_are_counted_apart(weighted: Weighted) -> None:
    model = weighted("""g (float[2,32,8,8] x, float[32,32,3,3] w1, float[64,32,1,1] w2,
        float[32,32,1,1] w3) => (float[2,32,8,8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu(a)
        c = Conv(b, w2)  d, e = Split <num_outputs = 2, axis = 1> (c)  y = Conv(d, w3) }""")
    source = samples(model)
    text = "prune{pattern=2:4 min-size=0},quant-static{exclude=c,y},store-int8"
    ctx = run_pass(text, model, calibration=source)
    assert ctx.reports[-1].changed
    layers = surveyed(model).layers
    assert [layer.conform for layer in layers] == [1.0, 1.0, 1.0]
    assert [layer.zeros for layer in layers] == [9216 // 2, 2048 // 2, 1024 // 2]


def test_blocks_of_four_bits_keep_zeros(weighted: Weighted) -> None:
    """Through DequantizeLinear by blocks, with zero points of their own, and GPTQ."""
    text = """g (float[2,128] x, float[128,64] w1) => (float[2,64] y) { y = MatMul(x, w1) }"""
    for method in ("rtn", "gptq"):
        model = weighted(text)
        source = samples(model)
        run_pass(
            f"prune{{pattern=2:4}},quant-weights{{form=dequantize method={method} block=32}}",
            model,
            calibration=source,
        )
        (layer,) = surveyed(model).layers
        assert layer.dtype in ("uint4", "uint8")
        assert (layer.conform, layer.shape) == (1.0, (128, 64))


@pytest.mark.parametrize(
    ("text", "quantization"),
    [
        (NETWORK.replace("64", "128"), "quant-static"),
        (NETWORK.replace("64", "128"), "quant-dynamic"),
        (NETWORK.replace("64", "128"), "quant-weights{block=32}"),
        (CONVOLUTION, "quant-static,store-int8"),  # also int8 that runs as float
    ],
)
def test_pruning_after_quantization_is_refused(
    weighted: Weighted, text: str, quantization: str
) -> None:
    model = weighted(text)
    source = samples(model)
    run_pass(quantization, model, calibration=source)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    ctx = run_pass("prune", model, calibration=source)
    assert not ctx.reports[0].changed
    assert any("quantized already: prune before quantizing" in w for w in ctx.warnings)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
