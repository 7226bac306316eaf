# SPDX-License-Identifier: Apache-2.0
"""The tasks on images: what the models score, and what a model that knows nothing scores."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.tools import zoo
from burnish.tools.zoo.fashion import read_fashion
from burnish.tools.zoo.metric import Arrays, Run

pytestmark = pytest.mark.zoo


def session(name: str) -> onnxruntime.Session:
    return onnxruntime.session(zoo.fetch(name), threads=2, optimize="all")


def constant(model: onnxruntime.Session, value: float) -> Run:
    """Give outputs as the model's in shape, and all of one value."""
    return lambda feeds: {k: np.full_like(v, value) for k, v in model.run(feeds).items()}


def test_the_detector_finds_text() -> None:
    metric = zoo.metric("ppocrv6-det")
    with session("ppocrv6-det") as model:
        assert metric.evaluate(model.run, limit=5) > 0.8
        assert metric.evaluate(constant(model, 0.0), limit=5) == 0.0
        # Everything marked as text: all of it found, and nearly all of it wrong.
        full = metric.evaluate(constant(model, 1.0), limit=5)
        assert 0.0 < full < 0.3


def test_lite0_knows_the_images() -> None:
    top1, top5, same = zoo.metrics("efficientnet-lite0")
    with session("efficientnet-lite0") as model:
        assert top1.evaluate(model.run) == pytest.approx(18 / 20)
        assert top5.evaluate(model.run) == pytest.approx(19 / 20)
        assert same.evaluate(model.run) == 1.0
        # Its calibration feeds are photographs too, so it decides on them rather than guesses.
        assert same.evaluate(model.run, split="calibration", limit=8) == 1.0

        def rolled(feeds: Arrays) -> Arrays:
            return {name: np.roll(logits, 1, -1) for name, logits in model.run(feeds).items()}

        assert top1.evaluate(rolled) < 0.1
        assert same.evaluate(rolled) == 0.0


def test_the_digits_are_read_in_batches() -> None:
    metric = zoo.metric("mnist-cnn")
    with session("mnist-cnn") as model:
        assert metric.evaluate(model.run) == pytest.approx(0.9986, abs=1e-4)
        # A constant answer, 0, is right for about a tenth of shuffled digits.
        same = metric.evaluate(constant(model, 0.0))
        assert 0.08 < same < 0.12
        (feed,) = zoo.feeds("mnist-cnn", 1)
        assert model.run(feed)["logits"].shape == (1, 10)


def test_fashion_mnist_is_balanced_and_split() -> None:
    files = {path.name: path for path in zoo.fetch("fashion-mnist").rglob("*.gz")}
    images, labels = read_fashion(files, "train")
    assert images.shape == (60000, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10
    images, labels = read_fashion(files, "test")
    assert images.shape == (10000, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10


@pytest.mark.slow
def test_the_resnet_has_learnt_clothing() -> None:
    metric = zoo.metric("fashion-resnet")
    with session("fashion-resnet") as model:
        assert metric.evaluate(model.run) > 0.87
        assert metric.evaluate(constant(model, 0.0)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", [e.name for e in zoo.entries() if e.name.startswith("light-")])
def test_a_classic_topology_runs_on_its_feeds(name: str) -> None:
    with session(name) as model:
        (feed,) = zoo.feeds(name, 1)
        (output,) = model.run(feed).values()
        assert output.size == 1000
        assert np.isfinite(output).all()
    assert zoo.metrics(name) == ()
