# SPDX-License-Identifier: Apache-2.0
"""Residual blocks of real models: how many there are, and that the models run without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish import frontends
from burnish.backends import onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.residual import find_blocks, without
from burnish.passes.shapes import infer_shapes
from burnish.passes.verify import verify
from burnish.testing import run_pass
from burnish.tools import zoo

pytestmark = pytest.mark.zoo

_TEXT = {"batch": 3, "sequence": 17}
# Name -> what to do first, blocks there are, and sizes to run at.
MODELS: dict[str, tuple[str, int, dict[str, int]]] = {
    "minilm-l6-dynamo": ("cleanup", 12, _TEXT),
    "minilm-l6-torchscript": ("cleanup", 12, _TEXT),
    "efficientnet-lite0": ("fuse", 9, {"batch": 2}),
    "light-resnet50": ("fold", 12, {}),  # of 16, of which 4 have a projected shortcut
    "light-densenet121": ("fold", 0, {}),
}
# unet: those that read neither the time step nor the text.
NETWORKS = {"unet": 2, "swin": 8, "convnext": 2, "yolov8": 3, "regnet-y": 0}


def _check(path: Path, pipeline: str, count: int, dims: dict[str, int]) -> None:
    model = frontends.load(path).model
    run_pass(pipeline, model)
    infer_shapes(model)
    blocks = find_blocks(model.graph, lambda node, reason: None)
    assert len(blocks) == count
    shallow = without(model, blocks)
    assert verify(shallow) == []
    assert len(shallow.graph) <= len(model.graph) - sum(len(block.nodes) for block in blocks)
    with onnxruntime.session(model) as whole, onnxruntime.session(shallow) as rest:
        feeds = random_feeds(whole, 0, dims)
        before, after = whole.run(feeds), rest.run(feeds)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}


@pytest.mark.parametrize("name", MODELS)
def test_models_run_without_their_blocks(name: str) -> None:
    pipeline, count, dims = MODELS[name]
    _check(zoo.fetch(name), pipeline, count, dims)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_without_their_blocks(name: str) -> None:
    pytest.importorskip("torch")
    from burnish.tools.zoo import vision

    _check(vision.exported(name), "cleanup", NETWORKS[name], {"batch": 3})


def test_a_block_is_made_up_for() -> None:
    """39% of the operations of a classifier go; what is fitted brings its outputs back."""
    model = frontends.load(zoo.fetch("fashion-resnet")).model

    feeds = list(zoo.feeds("fashion-resnet", 128))
    samples = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    ctx = run_pass("fuse,prune-blocks", model, calibration=samples)
    (details,) = (report.details for report in ctx.reports if report.text == "prune-blocks")
    assert details["flops_left"] == pytest.approx(0.611, abs=0.001)
    assert details["error"] > 0.8
    assert details["recovered"] < 0.15
