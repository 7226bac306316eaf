# SPDX-License-Identifier: Apache-2.0
"""Collecting ranges: right values, in bounded memory, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.collect import collect
from burnish.passes.quant.observers import MinMax, Observer, Percentile, Range
from burnish.testing import parse


def observe(
    model: ir.Model,
    names: list[str],
    samples: CalibrationSource,
    make: Callable[[], Observer],
    **options: Any,
) -> dict[str, Observer]:
    observers = {name: make() for name in names}
    collect(model, {name: [made] for name, made in observers.items()}, samples, **options)
    return observers


MODEL = """g (float[N,3] x) => (float[N,3] y) {
    two = Constant <value_float = 2.0> ()
    double = Mul(x, two)
    y = Neg(double)
}"""


def source(model: ir.Model, count: int = 5, rows: int = 2) -> CalibrationSource:
    def feeds() -> Iterable[dict[str, np.ndarray]]:
        for index in range(count):
            yield {"x": np.full((rows, 3), index - 1, np.float32)}

    return CalibrationSource.from_iterable(feeds, model.graph.inputs)


def test_inputs_inner_values_and_outputs_are_observed() -> None:
    model = parse(MODEL)
    before = ir.to_onnx_text(model)
    found = observe(model, ["x", "double", "y"], source(model), MinMax)
    assert list(found) == ["x", "double", "y"]
    assert found["x"].range() == Range(-1, 3)
    assert found["double"].range() == Range(-2, 6)
    assert found["y"].range() == Range(-6, 2)
    assert ir.to_onnx_text(model) == before


def test_a_small_budget_needs_more_sweeps_and_finds_the_same() -> None:
    model = parse(MODEL)
    labels: list[tuple[str, int | None]] = []

    def progress(items: Iterable[Any], total: int | None, label: str) -> Iterable[Any]:
        labels.append((label, total))
        return items

    names = ["x", "double", "y"]
    one = observe(model, names, source(model), Percentile, progress=progress)
    assert [label for label, _ in labels] == ["calibrate"]
    two = observe(model, names, source(model), Percentile, progress=progress, budget=30)
    assert [label for label, _ in labels[1:]] == ["calibrate 1/2", "calibrate 2/2"]
    assert labels[2][1] == 5  # known after the first sweep
    assert {n: o.range() for n, o in one.items()} == {n: o.range() for n, o in two.items()}


def test_nothing_but_inputs() -> None:
    model = parse(MODEL)
    assert observe(model, ["x"], source(model), MinMax)["x"].range() == Range(-1, 3)
    assert observe(model, [], source(model), MinMax) == {}


def test_samples_may_differ_in_size() -> None:
    model = parse(MODEL)

    def feeds() -> Iterable[dict[str, np.ndarray]]:
        for rows in (1, 7, 3):
            yield {"x": np.full((rows, 3), rows, np.float32)}

    samples = CalibrationSource.from_iterable(feeds, model.graph.inputs)
    assert observe(model, ["double"], samples, MinMax)["double"].range() == Range(2, 14)


def test_a_sample_the_model_cannot_run_is_reported() -> None:
    model = parse("g (float[N,3] x, float[M,3] z) => (float[K,3] y) { t = Neg(x) y = Add(t, z) }")

    def feeds() -> Iterable[dict[str, np.ndarray]]:
        yield {"x": np.zeros((2, 3), np.float32), "z": np.zeros((3, 3), np.float32)}

    samples = CalibrationSource.from_iterable(feeds, model.graph.inputs)
    with pytest.raises(InputError, match=r"calibration sample 0: .*Add") as caught:
        observe(model, ["t"], samples, MinMax)
    assert "\n" not in str(caught.value)


def test_the_default_of_an_input_that_samples_leave_out_is_observed() -> None:
    model = parse("g (float[N,3] x, float[3] b = {1, 5, 3}) => (float[N,3] y) { y = Add(x, b) }")
    found = observe(model, ["b", "y"], source(model), MinMax)
    assert found["b"].range() == Range(1, 5)
    assert found["y"].range() == Range(0, 8)


def test_several_may_watch_one_value() -> None:
    model = parse(MODEL)
    one, two = MinMax(), Percentile()
    collect(model, {"double": [one, two]}, source(model))
    assert one.seen == two.seen == Range(-2, 6)
