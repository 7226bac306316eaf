# SPDX-License-Identifier: Apache-2.0
"""Layers, what they are fed, and what their errors are."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.passes.calibration import CalibrationSource
from burnish.passes.reconstruct.layer import gram_bytes, layers_of, shift_bias
from burnish.passes.reconstruct.observe import is_held_out, observe
from burnish.testing import assert_same_outputs, parse

LAYERS = {
    "MatMul": ("MatMul(x, w)", (6, 5), (3, 4, 6)),
    "Gemm": ("Gemm<alpha = 0.5>(x, w)", (6, 5), (3, 6)),
    "Gemm, transB": ("Gemm<transB = 1>(x, w)", (5, 6), (3, 6)),
    "Conv": ("Conv(x, w)", (5, 6, 3, 3), (2, 6, 8, 7)),
    "Conv, groups": ("Conv<group = 3, pads = [1, 1, 1, 1]>(x, w)", (9, 2, 3, 3), (2, 6, 8, 7)),
}


def one(call: str, sizes: tuple[int, ...], rank: int, weights: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    shape = ",".join(f"d{i}" for i in range(rank))
    array = np.random.default_rng(0).normal(0, 1, sizes) if weights is None else weights
    values = ", ".join(str(np.float32(v)) for v in array.reshape(-1))
    return parse(
        f"g (float[{shape}] x) => (float[{shape}] y) "
        f"<float[{','.join(map(str, sizes))}] w = {{{values}}}> {{ y = {call} }}"
    )


def fed(shape: tuple[int, ...], count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(0.3, 1, shape).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_are_written_back_as_they_were_read(kind: str) -> None:
    call, sizes, x = LAYERS[kind]
    model = one(call, sizes, len(x))
    (layer,) = layers_of(model)
    before = model.clone()
    layer.replace(layer.rows.copy())
    assert_same_outputs(before, model, feeds=fed(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_energy_is_the_squared_error_on_the_samples_held_out(kind: str) -> None:
    call, sizes, x = LAYERS[kind]
    model = one(call, sizes, len(x))
    feeds = fed(x)
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    ((layer, evidence),) = observe(model, layers_of(model), samples)
    held = [feed for index, feed in enumerate(feeds) if is_held_out(index)]
    other = model.clone()
    (changed,) = layers_of(other)
    error = np.asarray(np.random.default_rng(2).normal(0, 0.1, layer.rows.shape))
    changed.replace(layer.rows + error)
    with onnxruntime.session(model) as old, onnxruntime.session(other) as new:
        caused = sum(np.square(new.run(f)["y"] - old.run(f)["y"]).sum() for f in held)
    assert evidence.held.energy(error) == pytest.approx(caused, rel=1e-4)
    assert evidence.fit.count == 3 * evidence.held.count


@pytest.mark.parametrize("kind", LAYERS)
def test_the_best_bias_leaves_the_centred_energy(kind: str) -> None:
    call, sizes, x = LAYERS[kind]
    model = one(call, sizes, len(x))
    if kind == "MatMul":
        model = parse(
            "g (float[a,b,6] x) => (float[a,b,5] y) <float[6,5] w = {"
            + ", ".join(map(str, np.arange(30.0) / 30))
            + "}, float[5] b = {1,2,3,4,5}> { t = MatMul(x, w)  y = Add(b, t) }"
        )
    feeds = fed(x)
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    ((layer, evidence),) = observe(model, layers_of(model), samples)
    other = model.clone()
    (changed,) = layers_of(other)
    error = np.asarray(np.random.default_rng(2).normal(0, 0.1, layer.rows.shape))
    changed.replace(layer.rows + error)
    assert shift_bias(changed, -np.einsum("gok,gk->go", error, evidence.fit.mean).reshape(-1))
    fit = [feed for index, feed in enumerate(feeds) if not is_held_out(index)]
    with onnxruntime.session(model) as old, onnxruntime.session(other) as new:
        caused = sum(np.square(new.run(f)["y"] - old.run(f)["y"]).sum() for f in fit)
    assert evidence.fit.centred.energy(error) == pytest.approx(caused, rel=1e-4)


def test_one_of_four_is_held_out_whatever_turns_samples_come_in() -> None:
    assert [i for i in range(12) if is_held_out(i)] == [3, 4, 9]
    for turns in (2, 4, 8):
        counts = Counter(i % turns for i in range(4096) if is_held_out(i))
        assert set(counts.values()) == {4096 // 4 // turns}


TWICE = (
    "g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {" + ",".join(map(str, range(16))) + "}> "
    "{ t = MatMul(x, w)  y = MatMul(t, w) }"
)


def test_operators_on_the_same_weights_are_one_layer_fed_by_both() -> None:
    model = parse(TWICE)
    (layer,) = layers_of(model)
    assert len(layer.nodes) == 2
    assert not layer.shared
    feeds = fed((3, 4))
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    ((_, evidence),) = observe(model, [layer], samples)
    assert evidence.held.count == 2 * 2 * 3


def test_a_layer_takes_the_memory_of_one_matrix_however_many_feed_it() -> None:
    steps, size = 12, 64
    weights = ",".join(map(str, np.random.default_rng(0).normal(0, 0.1, size * size)))
    calls = "".join(f"t{i + 1} = MatMul(t{i}, w) " for i in range(steps))
    model = parse(
        f"g (float[N,{size}] t0) => (float[N,{size}] t{steps}) "
        f"<float[{size},{size}] w = {{{weights}}}> {{ {calls} }}"
    )
    rng = np.random.default_rng(1)
    feeds = [{"t0": rng.normal(0, 1, (2, size)).astype(np.float32)} for _ in range(4)]
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    layers = layers_of(model)
    with onnxruntime.session(model):  # what is loaded once is not counted
        tracemalloc.start()
    try:
        ((_, evidence),) = observe(model, layers, samples)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert evidence.fit.count == 3 * 2 * steps
    assert peak < 12 * gram_bytes(layers[0])  # not twice that for each step


def test_few_bytes_take_more_sweeps_for_the_same_result() -> None:
    text = TWICE.replace("MatMul(t, w)", "MatMul(t, v)").replace(
        "}> {", "}, float[4,4] v = {" + ",".join(map(str, range(16))) + "}> {"
    )
    model = parse(text)
    feeds = fed((3, 4))
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    once = [e.fit.second for _, e in observe(model, layers_of(model), samples)]
    often = [e.fit.second for _, e in observe(model, layers_of(model), samples, budget=1)]
    assert len(once) == 2
    np.testing.assert_array_equal(once, often)
