# SPDX-License-Identifier: Apache-2.0
"""Keras models as tf2onnx writes them (see tests/data/exporters/make.py): every layer is found.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from burnish.backends.target import Target
from burnish.frontends import load
from burnish.testing import assert_same_outputs, run_pass

FILES = Path(__file__).parents[2] / "data" / "exporters"
CPU = Target.parse("cpu")
WANTS = dataclasses.replace(CPU, preferences=())

# The layers of each model, and the most nodes that `fuse` may leave of it for a CPU.
EXPECTED = {
    "keras-convolutional": (
        {"Conv": 5, "QuickGelu": 2, "HardSwish": 1, "HardSigmoid": 1, "Clip": 1, "Transpose": 1},
        26,
    ),
    "keras-normalized": (
        {
            "GroupNormalization": 1,
            "InstanceNormalization": 1,
            "LayerNormalization": 1,
            "SimplifiedLayerNormalization": 1,
            "QuickGelu": 1,
            "Mish": 1,
            "Gelu": 1,
            "Transpose": 3,
        },
        18,
    ),
    "keras-preactivated": ({"BatchNormalization": 3, "Conv": 3, "Transpose": 1}, 13),
    "keras-transformer": (
        {"Attention": 3, "LayerNormalization": 7, "Gelu": 2, "QuickGelu": 1, "Reshape": 0},
        71,
    ),
    "keras-recurrent": ({"LSTM": 1, "Loop": 1}, 40),
}


def test_every_file_is_expected() -> None:
    assert {path.stem for path in FILES.glob("*.onnx")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layer_is_found(name: str) -> None:
    model = load(FILES / f"{name}.onnx").model
    original = model.clone()
    run_pass("fuse", model, target=WANTS)
    found = Counter(node.op_type for node in model.graph.all_nodes())
    layers, _ = EXPECTED[name]
    assert {op_type: found[op_type] for op_type in layers} == layers
    assert_same_outputs(original, model)


@pytest.mark.parametrize("name", EXPECTED)
def test_nodes_for_a_cpu(name: str) -> None:
    model = load(FILES / f"{name}.onnx").model
    original = model.clone()
    run_pass("fuse", model, target=CPU)
    assert len(model.graph) <= EXPECTED[name][1]
    assert_same_outputs(original, model)
