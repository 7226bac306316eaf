# SPDX-License-Identifier: Apache-2.0
"""Collecting ranges: right values, in bounded memory, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import Session
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.accuracy.correct import ChannelMean
from burnish.passes.quant.calibration.collect import Checkpoint, Collected, collect
from burnish.passes.quant.calibration.observers import MinMax, Observer, Percentile, Range
from burnish.passes.reconstruct.gram import Gram
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


# --- samples that grow ---------------------------------------------------------------------------


def growing(model: ir.Model, rows: Iterable[int]) -> CalibrationSource:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(0, 1, (n, 3)).astype(np.float32)} for n in rows]
    return CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)


def test_where_samples_grow_the_budget_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse(MODEL)
    fetched: list[int] = []
    run = Session.run

    def watched(self: Session, *arguments: Any) -> dict[str, np.ndarray]:
        found = run(self, *arguments)
        if not any("shape" in name for name in found):
            fetched.append(sum(array.nbytes for array in found.values()))
        return found

    monkeypatch.setattr(Session, "run", watched)
    names = ["x", "double", "y"]
    samples = growing(model, [1, 2, 30, 1, 50, 2])
    whole = observe(model, names, samples, Percentile)
    assert max(fetched) == 2 * 50 * 3 * 4
    fetched.clear()
    shared = observe(model, names, samples, Percentile, budget=50 * 3 * 4)
    assert max(fetched) == 50 * 3 * 4
    for name in names:
        assert state(shared[name]) == state(whole[name])


def state(made: Observer) -> dict[str, Any]:
    return {key: array.tolist() for key, array in made.state().items()}


def test_what_was_read_is_told() -> None:
    model = parse(MODEL)
    samples = growing(model, [1, 2, 3])
    assert collect(model, {"y": [MinMax()]}, samples) == Collected(3, samples.digest)


# --- interrupted and resumed ---------------------------------------------------------------------


class Interrupted(Exception):
    pass


def breaking(model: ir.Model, samples: CalibrationSource, after: int) -> CalibrationSource:
    """The same samples, until the power fails once `after` of them were read in all."""
    read = 0

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        nonlocal read
        for sample in samples:
            if read == after:
                raise Interrupted
            read += 1
            yield sample

    source = CalibrationSource.from_iterable(feeds, model.graph.inputs)
    read = 0
    return source


@pytest.mark.parametrize("budget", [1 << 20, 50 * 3 * 4, 30])
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(budget: int, tmp_path: Path) -> None:
    model = parse(MODEL)
    samples = growing(model, [1, 2, 30, 1, 50, 2])

    def watchers() -> dict[str, list[Any]]:
        every = {name: [Percentile(), MinMax(), ChannelMean()] for name in ("x", "double", "y")}
        return {**every, "double": [*every["double"], Gram(3)]}

    def states(watching: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return [state(watcher) for several in watching.values() for watcher in several]

    whole = watchers()
    expected = collect(model, whole, samples, budget=budget)
    path = tmp_path / "state"
    interruptions = 0
    for after in range(40):
        first, again = watchers(), watchers()
        checkpoint = Checkpoint(path, "key", every=0.0)
        try:
            collect(
                model, first, breaking(model, samples, after), budget=budget, checkpoint=checkpoint
            )
        except Interrupted:
            interruptions += 1
        resumed = Checkpoint(path, "key", resume=True, every=0.0)
        assert collect(model, again, samples, budget=budget, checkpoint=resumed) == expected
        assert states(again) == states(whole)
        assert not path.exists()
    assert interruptions >= 6


def test_a_state_of_something_else_is_not_resumed(tmp_path: Path) -> None:
    model = parse(MODEL)
    samples = growing(model, [1, 2, 3, 4])
    path = tmp_path / "state"
    checkpoint = Checkpoint(path, "key", every=0.0)
    broken = breaking(model, samples, 3)
    with pytest.raises(Interrupted):
        collect(model, {"y": [MinMax()]}, broken, checkpoint=checkpoint)
    kept = path.read_bytes()

    def resume(key: str, samples: CalibrationSource) -> None:
        where = Checkpoint(path, key, resume=True)
        collect(model, {"y": [MinMax()]}, samples, checkpoint=where)

    with pytest.raises(InputError, match="the model or an option has changed; leave out --resume"):
        resume("other", samples)
    with pytest.raises(InputError, match="not those of the interrupted run; leave out"):
        resume("key", growing(model, [2, 2, 3, 4]))
    with pytest.raises(InputError, match="not those of the interrupted run; leave out"):
        resume("key", growing(model, [1]))
    assert path.read_bytes() == kept
    path.write_text("hello")
    with pytest.raises(InputError, match="is no state of a calibration"):
        resume("key", samples)


def test_a_watcher_that_cannot_take_what_it_is_shown_is_named() -> None:
    model = parse(MODEL)
    with pytest.raises(InputError, match=r"'double' on calibration sample 0: .* not 1 of 4"):
        collect(model, {"double": [Gram(4)]}, source(model))
