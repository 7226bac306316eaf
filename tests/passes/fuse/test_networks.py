# SPDX-License-Identifier: Apache-2.0
"""Networks for images as both of torch's exporters write them: every layer is found.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.frontends import load
from burnish.frontends.pytorch import Exporter
from burnish.testing import assert_same_outputs, run_pass
from burnish.tools.zoo.vision import NETWORKS, exported

pytest.importorskip("transformers", reason="exports need torch and transformers")

WANTS = dataclasses.replace(Target.parse("cpu"), preferences=())
LAYERS = "cleanup,upgrade,fuse-norm,fuse-activation,fuse-affine,fuse-shuffle,cleanup"
FAST = ("yolov8", "unet", "shufflenet-v2")


def cases() -> Iterator[Any]:
    """Each network and exporter; slow ones are marked."""
    for name in NETWORKS:
        for exporter in ("dynamo", "torchscript"):
            yield pytest.param(name, exporter, marks=() if name in FAST else pytest.mark.slow)


def census(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


@pytest.mark.parametrize(("name", "exporter"), list(cases()))
def test_every_layer_is_found(name: str, exporter: Exporter) -> None:
    model = load(str(exported(name, exporter))).model
    original = model.clone()
    run_pass(LAYERS, model, target=WANTS)
    found, wanted = census(model), NETWORKS[name].fused
    assert {op_type: found[op_type] for op_type in wanted} == wanted
    assert_same_outputs(original, model)


@pytest.mark.parametrize(("name", "exporter"), list(cases()))
def test_what_a_cpu_runs(name: str, exporter: Exporter) -> None:
    model = load(str(exported(name, exporter))).model
    original = model.clone()
    run_pass("fuse", model)
    found, network = census(model), NETWORKS[name]
    assert found["Attention"] == network.attentions
    assert found["GroupNormalization"] == 0
    grouped = network.fused.get("GroupNormalization", 0)
    assert found["InstanceNormalization"] == grouped + network.fused.get("InstanceNormalization", 0)
    assert_same_outputs(original, model)
