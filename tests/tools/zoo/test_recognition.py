# SPDX-License-Identifier: Apache-2.0
"""Reading lines of text: the decoder, the edit distance, the lines, and a real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.tools import zoo
from burnish.tools.zoo.lines import draw_lines
from burnish.tools.zoo.metric import Arrays, Split
from burnish.tools.zoo.recognition import ctc_greedy, edit_distance

ALPHABET = ("", "a", "b", " ")


def read(classes: list[int]) -> str:
    return ctc_greedy(np.eye(len(ALPHABET))[classes], ALPHABET)


def test_ctc_merges_repeats_unless_a_blank_parts_them() -> None:
    assert read([0, 1, 1, 0, 1, 2, 2, 3, 2, 0]) == "aab b"
    assert read([0, 0, 0]) == ""


def test_edit_distance_counts_each_kind_of_edit() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.fixture(scope="module")
def model() -> onnxruntime.Session:
    return onnxruntime.session(zoo.fetch("ppocrv6-rec"), threads=2, optimize="all")


@pytest.fixture(scope="module")
def fonts() -> dict[str, Path]:
    folder = zoo.fetch("dejavu")
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.zoo
def test_the_same_seed_draws_the_same_lines(fonts: dict[str, Path]) -> None:
    def lines(split: Split, seed: int) -> list[tuple[str, bytes]]:
        return [(x.text, x.pixels.tobytes()) for x in draw_lines(split, 20, seed, fonts)]

    assert lines("evaluation", 0) == lines("evaluation", 0)
    assert lines("evaluation", 0) != lines("evaluation", 1)


@pytest.mark.zoo
def test_no_text_is_in_both_splits(fonts: dict[str, Path]) -> None:
    def texts(split: Split) -> set[str]:
        return {line.text for line in draw_lines(split, 150, 0, fonts)}

    assert not texts("calibration") & texts("evaluation")


@pytest.mark.zoo
def test_feeds_fit_the_model_and_differ_by_seed(model: onnxruntime.Session) -> None:
    first, other = (list(zoo.feeds("ppocrv6-rec", 3, seed)) for seed in (0, 1))
    assert len(first) == 3
    assert not np.array_equal(first[0]["x"], other[0]["x"])
    for feed in first:
        assert feed["x"].dtype == np.float32
        assert np.abs(feed["x"]).max() <= 1.0
        model.run(feed)


@pytest.mark.zoo
def test_the_model_reads_most_lines(model: onnxruntime.Session) -> None:
    exact, errors = zoo.metrics("ppocrv6-rec")
    assert (exact.name, exact.higher_is_better) == ("exact match", True)
    assert (errors.name, errors.higher_is_better) == ("character error rate", False)
    # 0.890 and 0.038 over all 300 lines.
    assert 0.80 <= exact.evaluate(model.run, limit=100) <= 0.97
    assert 0.005 <= errors.evaluate(model.run, limit=100) <= 0.08


@pytest.mark.zoo
def test_a_model_that_says_nothing_scores_nothing(model: onnxruntime.Session) -> None:
    def blank(feeds: Arrays) -> Arrays:
        (scores,) = model.run(feeds).values()
        nothing = np.zeros_like(scores)
        nothing[..., 0] = 1.0
        return {"scores": nothing}

    exact, errors = zoo.metrics("ppocrv6-rec")
    assert exact.evaluate(blank, limit=20) == 0.0
    assert errors.evaluate(blank, limit=20) == 1.0


@pytest.mark.zoo
def test_noise_on_the_scores_is_noticed(model: onnxruntime.Session) -> None:
    rng = np.random.default_rng(0)

    def noisy(feeds: Arrays) -> Arrays:
        (scores,) = model.run(feeds).values()
        return {"scores": scores + rng.gumbel(0.0, 0.05, scores.shape)}

    exact = zoo.metric("ppocrv6-rec")
    assert exact.evaluate(noisy, limit=20) < exact.evaluate(model.run, limit=20)


@pytest.mark.zoo
def test_a_limit_below_one_is_refused(model: onnxruntime.Session) -> None:
    with pytest.raises(InputError, match="cannot score exact match on 0 samples"):
        zoo.metric("ppocrv6-rec").evaluate(model.run, limit=0)
