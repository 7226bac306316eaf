# SPDX-License-Identifier: Apache-2.0
"""Real models: shrinking equals masking, at sizes other than those exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish import frontends
from burnish.passes.prune.units import Units
from burnish.testing import run_pass
from burnish.tools import zoo

pytestmark = pytest.mark.zoo

Proof = Callable[..., int]
UnitsOf = Callable[[ir.Model], Units]


def _load(path: Path, pipeline: str = "cleanup") -> ir.Model:
    model = frontends.load(path).model
    run_pass(pipeline, model)
    result = model.graph.outputs[0].producer()
    if result is not None and result.op_type in ("Sigmoid", "Softmax"):
        assert result.inputs[0] is not None
        model.graph.outputs[0] = result.inputs[0]  # tiny probabilities would say little
    return model


def _with_weights(model: ir.Model) -> ir.Model:
    """Give a model whose weights are all the same number ones that keep activations in range."""
    rng = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < 8:
            continue
        shape = tensor.shape.numpy()
        fan_in = int(np.prod(shape[1:]))
        if len(shape) == 1:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.standard_normal(shape) / fan_in**0.5
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    return model


# Name -> groups of units there are at least, and sizes to run at.
MODELS: dict[str, tuple[int, dict[str, int]]] = {
    "efficientnet-lite0": (24, {"batch": 2}),
    "ppocrv6-det": (41, {"DynamicDimension.1": 96, "DynamicDimension.2": 160}),
    "ppocrv6-rec": (29, {"DynamicDimension.0": 2, "DynamicDimension.1": 200}),
    "ppocrv4-det": (30, {}),
    "minilm-l6-dynamo": (12, {"batch": 3, "sequence": 17}),
    "minilm-l6-torchscript": (12, {"batch": 3, "sequence": 17}),
}
LIGHT = {
    "light-densenet121": 120,
    "light-shufflenet": 14,
    "light-inception-v2": 69,
    "light-resnet50": 37,
}


@pytest.mark.parametrize("name", MODELS)
def test_shrinking_equals_masking(name: str, proof: Proof, units_of: UnitsOf) -> None:
    least, dims = MODELS[name]
    model = _load(zoo.fetch(name))
    assert len(units_of(model.clone()).groups) >= least
    assert proof(model, share=0.3, dims=dims) > 0


@pytest.mark.parametrize("name", LIGHT)
def test_structures_without_weights(name: str, proof: Proof, units_of: UnitsOf) -> None:
    model = _with_weights(_load(zoo.fetch(name), "fold"))
    assert len(units_of(model.clone()).groups) >= LIGHT[name]
    assert proof(model, share=0.3) > 0


# Network -> sizes to run at. All are exported at a batch of 2 and run at one of 1, unless given.
NETWORKS: dict[str, dict[str, int]] = {
    "unet": {"batch": 3, "height": 12, "width": 20},
    "regnet-y": {},
    "mobilenet-v3": {},
    "yolov8": {},
    "shufflenet-v2": {},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_many_couplings(network: str, proof: Proof) -> None:
    pytest.importorskip("torch")
    from burnish.tools.zoo import vision

    assert proof(_load(vision.exported(network)), dims=NETWORKS[network]) > 0


def test_heads_and_neurons_of_minilm(units_of: UnitsOf) -> None:
    groups = units_of(_load(zoo.fetch("minilm-l6-dynamo"))).groups
    assert [len(group.units) for group in groups if group.heads] == [12] * 6
    assert [len(group.units) for group in groups if not group.heads] == [1536] * 6
