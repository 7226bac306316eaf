# SPDX-License-Identifier: Apache-2.0
"""Retrieval and similarity: the statistics by hand, the data, and MiniLM itself."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.tools import zoo
from burnish.tools.zoo.boolq import read_passages
from burnish.tools.zoo.embedding import spearman
from burnish.tools.zoo.metric import Arrays, Split

NAMES = ["R@1", "MRR@10", "Spearman, Lee", "Spearman, WordSim-353", "Spearman, SimLex-999"]


def test_spearman_depends_on_ranks_alone() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert spearman(a, -(a**3)) == pytest.approx(-1.0)


def test_spearman_shares_the_rank_of_ties() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: Pearson's of these is 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(
        4.5 / np.sqrt(4.5 * 5)
    )


def test_spearman_of_a_constant_is_zero() -> None:
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


@pytest.fixture(scope="module", params=["minilm-l6-dynamo", "minilm-l6-torchscript"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> onnxruntime.Session:
    return onnxruntime.session(zoo.fetch(name), threads=2, optimize="all")


@pytest.mark.zoo
def test_feeds_fit_the_model(name: str, model: onnxruntime.Session) -> None:
    feeds = list(zoo.feeds(name, 4))
    assert len(feeds) == 4
    for feed in feeds:
        (vectors,) = model.run(feed).values()
        assert vectors.shape == (*feed["input_ids"].shape, 384)


@pytest.mark.zoo
def test_the_model_finds_most_passages_and_agrees_with_people(
    name: str, model: onnxruntime.Session
) -> None:
    metrics = zoo.metrics(name)
    assert [metric.name for metric in metrics] == NAMES
    recall, mrr, lee, *_ = metrics
    # 0.892 and 0.931 among all 600 passages; fewer are easier.
    assert recall.evaluate(model.run, limit=40) > 0.9
    assert mrr.evaluate(model.run, limit=40) > 0.95
    assert lee.evaluate(model.run) == pytest.approx(0.508, abs=0.002)


@pytest.mark.zoo
def test_a_model_that_ignores_its_input_is_no_better_than_chance() -> None:
    rng = np.random.default_rng(0)

    def random(feeds: Arrays) -> Arrays:
        return {"vectors": rng.standard_normal((*feeds["input_ids"].shape, 384))}

    recall, _, lee, *_ = zoo.metrics("minilm-l6-dynamo")
    assert recall.evaluate(random, limit=100) < 0.1
    assert abs(lee.evaluate(random)) < 0.15


@pytest.mark.zoo
def test_ratings_are_there_for_the_evaluation_split_only() -> None:
    with pytest.raises(InputError, match="evaluation split only"):
        zoo.metrics("minilm-l6-dynamo")[2].evaluate(lambda feeds: feeds, split="calibration")


@pytest.mark.zoo
def test_no_passage_is_in_both_splits() -> None:
    folder = zoo.fetch("boolq")
    files = {path.name: path for path in folder.rglob("*.jsonl")}
    theirs, ours = (set(read_passages(files, split)) for split in get_args(Split))
    assert len(ours) > 2000
    assert len(theirs) > 2000
    assert not ours & theirs
