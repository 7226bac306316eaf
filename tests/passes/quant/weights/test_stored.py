# SPDX-License-Identifier: Apache-2.0
"""Weights that are int8 in the file and float when they run: how far off, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.onnxfile import save
from burnish.backends.target import Target
from burnish.passes.quant.ready import mark_quantized
from burnish.passes.quant.weighted import KEEP, SLOWER
from burnish.passes.quant.weights.stored import StoreInt8, quantize, row_scales
from burnish.testing import refusals, rewrites, run_pass

Build = Any
Error = Any

# A depthwise convolution and a gate, between two products.
BLOCK = """
    a{i} = Conv({x}, e{i}, f{i})
    r{i} = Relu(a{i})
    d{i} = Conv <group = 48, pads = [1, 1, 1, 1]> (r{i}, k{i}, l{i})
    m{i} = GlobalAveragePool(d{i})
    g{i} = Conv(m{i}, w{i}, v{i})
    h{i} = Sigmoid(g{i})
    p{i} = Mul(d{i}, h{i})
    {y} = Conv(p{i}, c{i}, o{i})"""
# What comes in int8 lets the passes know that others of the model are.
TEXT = f"""g (float[N,24,8,8] x) => (float[N,24,8,8] y) {{
    q = QuantizeLinear(x, s, z)
    i = DequantizeLinear(q, s, z)
    {BLOCK.format(i=1, x="i", y="b")}
    {BLOCK.format(i=2, x="b", y="y")}
}}"""
SHAPES = {
    **{f"e{i}": (48, 24, 1, 1) for i in (1, 2)},
    **{f"k{i}": (48, 1, 3, 3) for i in (1, 2)},
    **{f"w{i}": (48, 48, 1, 1) for i in (1, 2)},
    **{f"c{i}": (24, 48, 1, 1) for i in (1, 2)},
    **{f"{name}{i}": (48,) for i in (1, 2) for name in "flv"},
    **{f"o{i}": (24,) for i in (1, 2)},
}
QUANTIZED = {"s": np.array(0.05, np.float32), "z": np.array(128, np.uint8)}

CPU = Target.parse("cpu")


@pytest.fixture
def model(build: Build) -> ir.Model:
    made: ir.Model = build(TEXT, **SHAPES, **QUANTIZED)
    mark_quantized(made)
    return made


def stored(model: ir.Model) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: (value.dtype.name, tuple(value.shape.numpy()))
        for name, value in model.graph.initializers.items()
        if value.dtype is not None and value.shape is not None
    }


def test_tensors_with_equal_rows_are_stored_as_one(model: ir.Model) -> None:
    ctx = run_pass(StoreInt8(), model)
    assert rewrites(ctx) == {"store-int8": 2, "store-float16": 3}
    assert stored(model) == {
        "s": ("FLOAT", ()),
        "z": ("UINT8", ()),
        "int8": ("INT8", (96, 24, 1, 1)),  # e1, e2
        "int8.sizes": ("INT64", (2,)),
        "int8_1": ("INT8", (144, 48, 1, 1)),  # w1, c1, w2, c2
        "int8_1.sizes": ("INT64", (4,)),
        "float16": ("FLOAT16", (336,)),  # all biases
        "float16.sizes": ("INT64", (8,)),
        "float16_1": ("FLOAT16", (96, 1, 3, 3)),  # k1, k2: rows of nine
        "float16_1.sizes": ("INT64", (2,)),
        "float16_2": ("FLOAT16", (240, 1, 1, 1)),  # the scales of int8 and int8_1
        "float16_2.sizes": ("INT64", (2,)),
    }


def test_who_reads_a_weight_finds_it_by_its_name(model: ir.Model) -> None:
    run_pass(StoreInt8(), model)
    read = {
        value.name: value.shape and tuple(value.shape)
        for node in model.graph
        if node.op_type == "Conv"
        for value in node.inputs[1:]
        if value is not None
    }
    assert read == SHAPES


def test_the_numbers_are_close(model: ir.Model, error: Error) -> None:
    before = model.clone()
    run_pass(StoreInt8(), model)
    # Weights have errors of up to 1/254 of the largest in a row, about 0.4 % of their size.
    assert 0 < error(before, model) < 0.01


def test_the_runtime_executes_what_it_did(model: ir.Model, tmp_path: Path) -> None:
    before = census(model, CPU).executed
    run_pass(StoreInt8(), model)
    (path,) = save(model, tmp_path / "m.onnx")
    assert census(path, CPU).executed.ops == before.ops


def test_the_file_is_small_and_always_the_same(model: ir.Model, tmp_path: Path) -> None:
    again = model.clone()
    again.meta.update(model.meta)
    (whole,) = save(model, tmp_path / "before.onnx")
    size = whole.stat().st_size
    for name, each in (("a", model), ("b", again)):
        run_pass(StoreInt8(), each)
        save(each, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 0.4 * size


@pytest.mark.parametrize("size", [1.0, 1e-3, 5e4])
def test_errors_are_bounded(size: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (64, 25)) * 10.0 ** rng.integers(-9, 1, (64, 1))
    array = (rows * size / np.abs(rows).max()).astype(np.float32).reshape(64, 1, 5, 5)
    array[3] = 0
    scale = row_scales(array)
    assert scale.dtype == np.float16
    assert scale.shape == (64, 1, 1, 1)
    integers = quantize(array, scale)
    assert np.abs(integers).max() <= 127
    restored = integers * scale.astype(np.float32)
    assert np.abs(restored - array).max() <= np.abs(array).max() / 250
    assert not restored[3].any()
    # Of rows that are small themselves, too, down to what float16 can tell apart.
    peak = np.abs(array).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(restored - array) <= peak / 250 + 2.0**-25).all()


def test_gemms_and_products_are_stored_too(build: Build, error: Error) -> None:
    text = """g (float[N,32] x) => (float[N,20] y) {
        q = QuantizeLinear(x, s, z)
        i = DequantizeLinear(q, s, z)
        h = MatMul(i, w)
        y = Gemm(h, v, b)
    }"""
    model = build(text, w=(32, 64), v=(64, 20), b=(1, 20), **QUANTIZED)
    mark_quantized(model)
    before = model.clone()
    ctx = run_pass(StoreInt8(), model)
    assert rewrites(ctx) == {"store-int8": 2}
    # A bias, although its one row is long.
    assert refusals(ctx)["store-float16"]["it would save nothing"] == 3
    assert 0 < error(before, model) < 0.01


SMALL = """g (float[N,8,4,4] x) => (float[N,8,4,4] y) {
    q = QuantizeLinear(x, s, z)
    i = DequantizeLinear(q, s, z)
    y = Conv(i, w)
}"""


@pytest.mark.parametrize(
    ("weights", "rule", "reason"),
    [
        (np.ones((4, 8, 1, 1)), "store-float16", "it would save nothing"),
        (np.full((64, 8, 3, 3), np.inf), "store-int8", "its numbers are not finite"),
        (
            np.full((64, 8, 3, 3), 1e-6),
            "store-int8",
            "its numbers are too large or too small for float16",
        ),
    ],
)
def test_refusals(build: Build, weights: np.ndarray, rule: str, reason: str) -> None:
    model = build(SMALL, w=weights.astype(np.float32), **QUANTIZED)
    mark_quantized(model)
    ctx = run_pass(StoreInt8(), model)
    assert rewrites(ctx) == {}
    assert refusals(ctx) == {rule: {reason: 1}}


def test_numbers_that_others_read_stay(build: Build) -> None:
    text = SMALL.replace("y = Conv(i, w)", "c = Conv(i, w) t = Add(w, w) y = Conv(c, t)")
    model = build(text, w=(64, 64, 1, 1), **QUANTIZED)
    mark_quantized(model)
    ctx = run_pass(StoreInt8(), model)
    assert rewrites(ctx) == {}
    assert refusals(ctx)["store-int8"] == {"other operators read the same numbers": 1}


def test_what_is_float_on_purpose_is_stored_as_float(model: ir.Model) -> None:
    gates = {node.outputs[0].name: node for node in model.graph}
    gates["g1"].meta[KEEP] = "int8 costs more accuracy than max_drop allows"
    gates["g2"].meta[KEEP] = SLOWER
    run_pass(StoreInt8(exclude=("a1",)), model)
    held = {name for name in SHAPES if name in model.graph.initializers}
    assert held == {"w1", "v1", "e1", "f1"}


def test_a_float_model_stays_as_it_is(build: Build) -> None:
    model = build("g (float[N,8,4,4] x) => (y) { y = Conv(x, w) }", w=(64, 8, 3, 3))
    assert rewrites(run_pass(StoreInt8(), model)) == {}


def test_large_weights_are_stored_alone(build: Build) -> None:
    text = """g (float[N,16,4,4] x) => (float[N,8192,4,4] y) {
        q = QuantizeLinear(x, s, z)
        i = DequantizeLinear(q, s, z)
        c = Conv(i, w)
        d = Conv(i, v)
        y = Concat <axis = 1> (c, d)
    }"""
    model = build(text, w=(4096, 16, 1, 1), v=(4096, 16, 1, 1), **QUANTIZED)
    mark_quantized(model)
    run_pass(StoreInt8(), model)
    made = {node.outputs[0].name: node.op_type for node in model.graph}
    assert (made["w"], made["v"]) == ("Mul", "Mul")


def test_what_a_logarithm_is_taken_of_stays(build: Build) -> None:
    """Whether another pass asked for it or not."""
    made: ir.Model = build(
        "g (float[N,24,8,8] x) => (float[N,C,H,W] y) { q = QuantizeLinear(x, s, z) "
        "i = DequantizeLinear(q, s, z)  a = MatMul(i, w)  b = Abs(a)  y = Log(b) }",
        w=(8, 300),
        **QUANTIZED,
    )
    mark_quantized(made)
    assert not rewrites(run_pass(StoreInt8(), made))
