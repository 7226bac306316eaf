# SPDX-License-Identifier: Apache-2.0
"""Answers kept in the user's cache: found again, only where they hold, whatever lies there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from burnish.backends.answers import Answer, Answers, Environment, cpu_name
from burnish.backends.target import Target

_HERE = Environment("Some CPU", ("avx2", "fma"), 1, "onnxruntime 1.0 CPUExecutionProvider", "0.1")
_ANSWER = Answer(1.25, 1.2, 1.3)


def answers(folder: Path, environment: Environment = _HERE) -> tuple[Answers, list[str]]:
    """Return a cache, and the warnings it will give."""
    warnings: list[str] = []
    return Answers(environment, warnings.append, folder), warnings


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(1.2, 1.1, 1.3), "faster"),
        (Answer(0.8, 0.7, 0.9), "slower"),
        (Answer(1.2, 1.005, 1.3), "same"),
        (Answer(0.98, 0.97, 0.995), "same"),
    ],
)
def test_nearness_to_1_is_no_verdict(answer: Answer, verdict: str) -> None:
    assert answer.verdict == verdict


def test_two_measurements_say_what_both_say() -> None:
    both = Answer(0.8, 0.7, 0.9).widened(Answer(1.1, 1.05, 1.2))
    assert both == Answer(1.1, 0.7, 1.2)
    assert both.verdict == "same"


def test_an_answer_is_found_again_by_another_process(tmp_path: Path) -> None:
    answers(tmp_path)[0].put("k", _ANSWER, "A for B")
    again, warnings = answers(tmp_path)
    assert again.get("k") == _ANSWER
    assert again.get("other") is None
    assert not warnings
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["question"] == "A for B"


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "Another CPU"},
        {"isa": ("avx2",)},
        {"threads": 2},
        {"runtime": "onnxruntime 1.1 CPUExecutionProvider"},
        {"burnish": "0.2"},
    ],
)
def test_an_answer_holds_in_its_environment_alone(
    change: dict[str, object], tmp_path: Path
) -> None:
    answers(tmp_path)[0].put("k", _ANSWER, "A for B")
    elsewhere = dataclasses.replace(_HERE, **change)  # type: ignore[arg-type]
    assert answers(tmp_path, elsewhere)[0].get("k") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"answer": {"ratio": 1.0}}',
        '{"answer": {"ratio": 1.0, "low": "x", "high": 2}}',
        '{"answer": {"ratio": 3.0, "low": 1.0, "high": 2.0}}',
        '{"answer": {"ratio": NaN, "low": 1.0, "high": 2.0}}',
        '{"answer": null}',
        "\x00\x01",
    ],
)
def test_a_broken_file_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    cache, warnings = answers(tmp_path)
    cache.put("k", _ANSWER, "A for B")
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert cache.get("k") is None
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    cache.put("k", _ANSWER, "A for B")
    assert cache.get("k") == _ANSWER


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    cache, warnings = answers(tmp_path)
    cache.put("k", _ANSWER, "A for B")
    next(tmp_path.iterdir()).write_bytes(b"\xff\xfe\x00")
    assert cache.get("k") is None
    assert len(warnings) == 1


def test_a_cache_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache, warnings = answers(blocked / "decisions")
    assert cache.get("k") is None
    cache.put("k", _ANSWER, "A for B")
    assert any("set BURNISH_CACHE to another folder" in line for line in warnings)


def test_the_environment_of_this_machine() -> None:
    here = Environment.of(Target.parse("cpu"), 1)
    assert here.cpu
    assert here.runtime.endswith("CPUExecutionProvider")
    assert here.hardware.startswith(here.cpu)
    assert here.hardware.endswith("1 thread")


def test_a_processor_without_cpuinfo_has_a_name(tmp_path: Path) -> None:
    assert cpu_name(tmp_path / "none")
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Fast One 3000  \n")
    assert cpu_name(info) == "Fast One 3000"
