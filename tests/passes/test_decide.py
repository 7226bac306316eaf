# SPDX-License-Identifier: Apache-2.0
"""Decisions: measured for real, kept, replayed, and left to the table where they must be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from burnish import api
from burnish.backends.answers import Answer, Answers
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes import decide
from burnish.passes.decide import REPLAYED, SLOWER, Decision, Replay
from burnish.passes.instrument import Disable
from burnish.passes.report import Report
from burnish.passes.rule import NoMatch, Rule, pass_of, rule
from burnish.testing import parse


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decisions"


@rule(may_lose=True)
def power_to_products(op: Any, x: Any) -> Any:
    """Pow(x, 7) -> products: much faster."""
    return op.Pow(x, 7.0)


@power_to_products.rewrite
def _(op: Any, x: Any) -> Any:
    square = op.Mul(x, x)
    return op.Mul(op.Mul(op.Mul(square, square), square), x)


@rule(may_lose=True)
def products_to_power(op: Any, x: Any) -> Any:
    """The other way round: much slower."""
    square = op.Mul(x, x)
    return op.Mul(op.Mul(op.Mul(square, square), square), x)


@products_to_power.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Pow(x, 7.0)


@rule(may_lose=True)
def product_in_parts(op: Any, x: Any, w: Any) -> Any:
    """MatMul(x, w) -> many small ones."""
    return op.MatMul(x, w)


@product_in_parts.rewrite
def _(op: Any, x: Any, w: Any) -> Any:
    if w.dims is None or w.dims[1] != 64:
        return NoMatch("already in parts")
    if w.static_dims != (128, 64):
        return NoMatch("already in parts")
    columns = op.Split(w, num_outputs=64, axis=1, _outputs=64)
    return op.Concat(*(op.MatMul(x, column) for column in columns), axis=1)


def powers(count: int = 1) -> ir.Model:
    """A model of seventh powers, one behind another."""
    nodes = " ".join(f"t{i} = Tanh(x{i})  x{i + 1} = Pow(t{i}, e)" for i in range(count))
    return parse(
        f"g (float[N,4096] x0) => (float[N,4096] x{count}) <float e = {{7.0}}> {{ {nodes} }}"
    )


def products() -> ir.Model:
    """A model that `products_to_power` would rewrite."""
    return parse("""g (float[N,4096] x) => (float[N,4096] y) {
        s = Mul(x, x)  a = Mul(s, s)  b = Mul(a, s)  y = Mul(b, x)
    }""")


def build(
    what: Rule, model: ir.Model, *, measure: bool = True, **options: Any
) -> tuple[ir.Model, list[Decision], Report]:
    """Optimize by one rule."""
    pipeline = [pass_of(what.name, what)()]
    made, report = api.optimize(model, pipeline, measure=measure, **options)
    return made, report.decisions, report


def refusals(report: Report) -> dict[str, int]:
    """Return reason -> count of all rules."""
    return {
        reason: count
        for item in report.passes
        for entry in item.rules.values()
        for reason, count in entry.refusals.items()
    }


def preferring(operator: str, prefer: bool) -> Target:
    """A target whose table speaks of one operator."""
    table = (Preference(operator, prefer, 0.9),)
    return dataclasses.replace(Target.parse("cpu"), preferences=table)


# --- measured ------------------------------------------------------------------------------------


def test_what_is_clearly_faster_is_taken() -> None:
    model, (decision,), _ = build(power_to_products, powers())
    assert [node.op_type for node in model.graph] == ["Tanh", *["Mul"] * 4]
    assert (decision.chosen, decision.source, decision.places) == ("rewritten", "measured", 1)
    assert decision.low is not None
    assert decision.low > 1.1
    assert decision.question == "Mul for Pow"
    assert decision.shapes == ["1x4096"]
    assert decision.hardware


def test_what_is_clearly_slower_is_refused() -> None:
    model, (decision,), report = build(products_to_power, products())
    assert [node.op_type for node in model.graph] == ["Mul"] * 4
    assert (decision.chosen, decision.source) == ("original", "measured")
    assert decision.high is not None
    assert decision.high < 0.9
    assert refusals(report)[SLOWER] == 1


def test_many_small_products_are_refused() -> None:
    model = parse("g (float[N,128] x, float[128,64] w) => (float[N,64] y) { y = MatMul(x, w) }")
    made, (decision,), _ = build(product_in_parts, model)
    assert [node.op_type for node in made.graph] == ["MatMul"]
    assert decision.ratio is not None
    assert decision.ratio < 0.5


def test_equal_regions_are_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _count_measurements(monkeypatch)
    _, (decision,), _ = build(power_to_products, powers(6))
    assert decision.places == 6
    assert calls == ["measured"]


def test_an_operator_of_the_table_is_asked_about_without_a_word_of_the_rule() -> None:
    plain = dataclasses.replace(products_to_power, may_lose=False)
    target = preferring("Pow", True)
    _, (decision,), _ = build(plain, products(), target=target)
    assert (decision.operator, decision.chosen) == ("Pow", "original")
    _, decisions, _ = build(plain, products())
    assert decisions == []


def test_the_operator_that_is_there_already_is_no_question() -> None:
    @rule
    def pow_of_square(op: Any, x: Any) -> Any:
        return op.Pow(op.Mul(x, x), 7.0)

    @pow_of_square.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Pow(x, 14.0)

    model = parse(
        "g (float[N] x) => (float[N] y) <float e = {7.0}> { s = Mul(x, x)  y = Pow(s, e) }"
    )
    made, decisions, _report = build(pow_of_square, model, target=preferring("Pow", True))
    assert [node.op_type for node in made.graph] == ["Pow"]
    assert decisions == []


def test_what_is_held_back_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _count_measurements(monkeypatch)
    _, decisions, _ = build(power_to_products, powers(), instruments=[Disable(("power-*",))])
    assert decisions == []
    assert calls == []


def test_calibration_sets_the_sizes() -> None:
    import numpy as np

    samples = [{"x0": np.ones((3, 4096), np.float32)}]
    _, (decision,), _ = build(power_to_products, powers(), calibration=samples)
    assert decision.shapes == ["3x4096"]


# --- from the cache ------------------------------------------------------------------------------


def _count_measurements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    timed = decide._timed

    def watch(*given: Any) -> Answer:
        calls.append("measured")
        return timed(*given)

    monkeypatch.setattr(decide, "_timed", watch)
    return calls


def test_what_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (first,), _ = build(power_to_products, powers())
    calls = _count_measurements(monkeypatch)
    _, (second,), _ = build(power_to_products, powers(3))
    assert calls == []
    assert second.source == "cached"
    assert (first.key, first.ratio) == (second.key, second.ratio)


def test_noise_is_measured_again_and_never_kept(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    noise, clear = Answer(1.1, 0.3, 2.8), Answer(1.5, 1.49, 1.51)
    given = iter([noise, clear])
    monkeypatch.setattr(decide, "_timed", lambda *_: next(given))
    _, (decision,), _ = build(power_to_products, powers())
    assert (decision.ratio, decision.source) == (1.5, "measured")
    (kept,) = cache.iterdir()
    kept.unlink()
    monkeypatch.setattr(decide, "_timed", lambda *_: noise)
    _, (decision,), _ = build(power_to_products, powers())
    assert (decision.high, decision.note) == (2.8, "cannot be told apart")
    assert not any(cache.iterdir())


def test_a_corrupt_cache_is_one_line_and_measured_again(cache: Path) -> None:
    build(power_to_products, powers())
    (path,) = cache.iterdir()
    path.write_text("{")
    _, (decision,), report = build(power_to_products, powers())
    assert decision.source == "measured"
    assert [str(path) in line for line in report.warnings] == [True]
    _, (decision,), report = build(power_to_products, powers())
    assert decision.source == "cached"
    assert report.warnings == []


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path) -> None:
    cache.parent.write_text("no folder")
    _, (decision,), report = build(power_to_products, powers())
    assert decision.source == "measured"
    assert any("cannot be kept" in line for line in report.warnings)


def _plant(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "get", lambda self, key: answer)


@pytest.mark.parametrize(
    ("prefer", "chosen", "note"),
    [
        (True, "rewritten", "cannot be told apart"),
        (False, "original", "target cpu runs it no faster fused (0.90x)"),
    ],
)
def test_where_it_cannot_tell_it_says_so_and_asks_the_table(
    prefer: bool, chosen: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(Answer(1.002, 0.99, 1.02), monkeypatch)
    _, (decision,), report = build(products_to_power, products(), target=preferring("Pow", prefer))
    assert (decision.chosen, decision.note, decision.ratio) == (chosen, note, 1.002)
    assert (note in refusals(report)) != prefer


@pytest.mark.parametrize(
    ("what", "model", "ratio", "chosen"),
    [
        (power_to_products, powers(), 0.998, "original"),
        (power_to_products, powers(), 1.002, "rewritten"),
        (products_to_power, products(), 0.998, "rewritten"),
    ],
)
def test_where_it_cannot_tell_more_nodes_must_not_look_slower(
    what: Rule, model: ir.Model, ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(Answer(ratio, 0.985, 1.015), monkeypatch)
    _, (decision,), report = build(what, model, target=preferring("Pow", True))
    assert decision.chosen == chosen
    assert ("no faster, and more nodes" in refusals(report)) == (chosen == "original")


# --- from the table ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", [True, False])
def test_without_measuring_the_table_decides(
    prefer: bool, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    calls = _count_measurements(monkeypatch)
    target = preferring("Pow", prefer)
    model, (decision,), _ = build(products_to_power, products(), measure=False, target=target)
    assert [node.op_type for node in model.graph] == ["Pow"] if prefer else ["Mul"] * 4
    assert (decision.source, decision.ratio) == ("recorded", 0.9)
    assert calls == []
    assert not cache.exists()


def test_the_environment_turns_measuring_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _count_measurements(monkeypatch)
    pipeline = [pass_of("powers", power_to_products)()]
    monkeypatch.setenv("BURNISH_MEASURE", "0")
    assert api.optimize(powers(), pipeline)[1].decisions[0].source == "recorded"
    monkeypatch.delenv("BURNISH_MEASURE")
    assert api.optimize(powers(), pipeline)[1].decisions[0].source == "measured"
    assert calls == ["measured"]


def test_another_machine_cannot_be_measured_here() -> None:
    target = dataclasses.replace(Target.parse("cpu"), isa=frozenset({"sve"}))
    _, (decision,), _ = build(power_to_products, powers(), target=target)
    assert decision.source == "recorded"
    assert decision.note == "not measured: the target is another machine"


def test_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start = decide.Decisions.start

    def poor(*given: Any, **named: Any) -> decide.Decisions:
        made = start(*given, **named)
        made.budget = 0.0
        return made

    monkeypatch.setattr(decide.Decisions, "start", poor)
    model, (decision,), _ = build(power_to_products, powers())
    assert decision.note == "not measured: the time for measuring is used up"
    assert len(model.graph) == 5


def test_a_region_that_cannot_be_run_is_left_to_the_table() -> None:
    model = parse("g (float[N,0] x0) => (float[N,0] y) <float e = {7.0}> { y = Pow(x0, e) }")
    made, (decision,), _ = build(power_to_products, model)
    assert (decision.key, decision.source) == ("", "recorded")
    assert decision.note == "not measured: there is nothing in it on these inputs"
    assert len(made.graph) == 4


# --- replayed ------------------------------------------------------------------------------------


def _saved(report: Report, path: Path, **changes: Any) -> Path:
    data = report.as_dict()
    for entry in data["decisions"]:
        entry.update(changes)
    path.write_text(json.dumps(data))
    return path


def test_a_replayed_build_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, files = tmp_path / "m.onnx", [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    ir.save(products(), source)
    _, _, report = build(products_to_power, source, output=files[0])  # type: ignore[arg-type]
    decisions = _saved(report, tmp_path / "r.json")
    calls = _count_measurements(monkeypatch)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "elsewhere"))
    _, (decision,), again = build(
        products_to_power,
        source,  # type: ignore[arg-type]
        output=files[1],
        decisions=decisions,
    )
    assert calls == []
    assert (decision.source, decision.chosen) == ("replayed", "original")
    assert decision.ratio == report.decisions[0].ratio
    assert refusals(again)[REPLAYED] == 1
    assert again.warnings == []
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_replayed_decision_outdoes_what_is_measured_here(tmp_path: Path) -> None:
    _, _, report = build(products_to_power, products())
    decisions = _saved(report, tmp_path / "r.json", chosen="rewritten")
    model, _, _ = build(products_to_power, products(), decisions=decisions)
    assert [node.op_type for node in model.graph] == ["Pow"]


def test_decisions_of_other_hardware_are_taken_and_said_to_be(tmp_path: Path) -> None:
    _, _, report = build(products_to_power, products())
    decisions = _saved(report, tmp_path / "r.json", hardware="Slow CPU, 1 thread")
    _, (decision,), again = build(products_to_power, products(), decisions=decisions)
    assert decision.source == "replayed"
    (line,) = again.warnings
    assert "were taken on Slow CPU, 1 thread; this is " in line


def test_a_question_left_open_is_answered_by_the_table_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[]")
    model, (decision,), report = build(power_to_products, powers(2), decisions=path)
    assert len(model.graph) == 10
    assert decision.source == "recorded"
    assert report.warnings == [f"{path} leaves questions open; the recorded table answers them"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"schema": 1}', "holds no decisions"),
        ('{"decisions": [{"key": 1, "chosen": "original"}]}', "holds no decisions"),
        ('{"decisions": [{"key": "a", "chosen": "maybe"}]}', "holds no decisions"),
        ('{"decisions": [{"key": "a", "chosen": "original", "low": "x"}]}', "holds no decisions"),
        ("3", "holds no decisions"),
    ],
)
def test_a_wrong_file_is_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        build(power_to_products, powers(), decisions=path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not JSON"):
        Replay.load(path)
