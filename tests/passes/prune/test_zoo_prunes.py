# SPDX-License-Identifier: Apache-2.0
"""Real models: orders of pruning, fusing and quantizing, exact patterns in files read back."""

from __future__ import annotations

from pathlib import Path

import pytest

import burnish
from burnish.backends import onnxruntime
from burnish.passes.prune.pattern import Kept
from burnish.passes.prune.survey import survey
from burnish.passes.quant.search.sensitivity import Reference
from burnish.passes.shapes import infer_shapes
from burnish.tools import zoo

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("order", ["PRUNE,fuse,quant", "fuse,PRUNE,quant"])
@pytest.mark.parametrize(
    ("name", "options", "layers", "accuracy"),
    [
        ("mnist-cnn", "recover=false", 3, 0.9),
        pytest.param("fashion-resnet", "criterion=sparsegpt", 9, 0.86, marks=pytest.mark.slow),
    ],
)
def test_both_orders_with_quantization(
    name: str, options: str, layers: int, accuracy: float, order: str, tmp_path: Path
) -> None:
    """2:4 holds exactly in the int8 file that is written, and the classifier still classifies."""
    path = tmp_path / "out.onnx"
    burnish.optimize(
        zoo.fetch(name),
        order.replace("PRUNE", f"prune{{pattern=2:4 {options}}}"),
        output=path,
        calibration=lambda: zoo.feeds(name, 12),
        measure=False,
    )
    model = burnish.load(path)
    infer_shapes(model)
    found = survey(model, Kept(2, 4))
    # The first convolution has a single channel, and no pattern.
    assert [layer.conform for layer in found.layers][1:] == [1.0] * layers
    assert {"int8"} <= {layer.dtype for layer in found.layers}
    with onnxruntime.session(path, optimize="all") as session:
        assert zoo.metric(name).evaluate(session.run, limit=500) > accuracy


@pytest.mark.slow
def test_sparsegpt_loses_much_less_than_magnitudes() -> None:
    """MiniLM at a half and at 2:4: the error of its outputs, on texts it was not fitted to."""
    name = "minilm-l6-dynamo"
    texts = list(zoo.feeds(name, 160))[-16:]
    source = zoo.fetch(name)
    with onnxruntime.session(source) as whole:
        reference = Reference(whole.run, texts)
    for goal, share in (("sparsity=0.5", 0.65), ("pattern=2:4", 0.7)):
        errors = []
        for options in ("recover=false", "criterion=sparsegpt recover=false"):
            model, _ = burnish.optimize(
                source,
                f"prune{{{goal} {options}}}",
                calibration=lambda: zoo.feeds(name, 64),
                verify="off",
            )
            with onnxruntime.session(model) as session:
                errors.append(reference.compare(session.run).error)
        assert errors[1] < share * errors[0]
