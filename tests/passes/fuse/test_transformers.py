# SPDX-License-Identifier: Apache-2.0
"""Transformers as both of torch's exporters write them: every attention and norm is found.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import session
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.errors import BurnishError
from burnish.frontends import load
from burnish.frontends.pytorch import Exporter
from burnish.testing import assert_same_outputs, run_pass
from burnish.tools.zoo.architectures import ARCHITECTURES, exported

pytest.importorskip("transformers", reason="exports need torch and transformers")

WANTS = dataclasses.replace(Target.parse("cpu"), preferences=())
WANTS_GROUPED = dataclasses.replace(
    WANTS,
    preferences=(
        Preference("Attention", False, 0.9),
        Preference("microsoft.GroupQueryAttention", True, 1.2),
    ),
)
PIPELINE = (
    "upgrade{opset=23},cleanup,known-sizes,fuse-norm,fuse-activation,fuse-attention,fuse-rotary,"
    "lower,cleanup"
)
ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
# What attentions, norms and activations are made of.
SPELLED_OUT = {"Softmax", "Erf", "Tanh", "Sigmoid", "Pow", "Sqrt", "Exp", "ReduceMean"}
FAST = ("bert", "gpt2", "llama-causal", "llama-past", "t5-decoder")
# Where TorchScript's exporter gives no file, or one that the runtime refuses: with what words.
NOT_BY_TORCHSCRIPT = {
    "bert-half": "bound to different types",
    "gpt2-half": "bound to different types",
    "cohere": "input_shape_size == requested_shape_size was false",
    "glm": "All tensors must have the same rank",
    "llama-causal-shared": "not implemented if enable_gqa is True",
}
SIZES = {"batch": 2, "sequence": 7, "encoded": 9, "past": 4, "total": 11}


def feeds(model: ir.Model) -> dict[str, np.ndarray]:
    """Inputs as a tokenizer or a camera would give them: the end of the last text is padding."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        assert value.dtype is not None
        dims = [dim if isinstance(dim, int) else SIZES[str(dim)] for dim in value.shape.dims]
        if "mask" in value.name:
            made[value.name] = np.ones(dims, np.int64)
            made[value.name][-1, -3:] = 0
        elif value.dtype.is_floating_point():
            made[value.name] = rng.standard_normal(dims).astype(value.dtype.numpy())
        else:
            made[value.name] = rng.integers(3, 99, dims)
    return made


def cases() -> Iterator[Any]:
    """Each architecture and exporter; slow ones are marked."""
    for name, architecture in ARCHITECTURES.items():
        for exporter in architecture.exporters:
            marks = [] if name in FAST else [pytest.mark.slow]
            yield pytest.param(name, exporter, marks=marks)


def is_causal(node: ir.Node) -> bool:
    flag = node.attributes.get("is_causal")
    return flag is not None and flag.as_int() == 1


def has_past(node: ir.Node) -> bool:
    return len(node.inputs) > 4 and node.inputs[4] is not None


@pytest.mark.parametrize(("name", "exporter"), list(cases()))
def test_every_layer_is_found(name: str, exporter: Exporter) -> None:
    model = load(str(exported(name, exporter))).model
    original = model.clone()
    run_pass(PIPELINE, model, target=WANTS)
    found = Counter(node.op_type for node in model.graph.all_nodes())
    attentions = [node for node in model.graph.all_nodes() if node.op_type in ATTENTIONS]
    wanted = ARCHITECTURES[name]
    assert len(attentions) == wanted.attentions
    assert sum(map(is_causal, attentions)) == wanted.causal
    assert sum(map(has_past, attentions)) == wanted.past
    assert sum(found[op_type] for op_type in NORMS) == wanted.norms
    assert found["RotaryEmbedding"] == wanted.rotary
    assert not SPELLED_OUT & set(found)
    assert_same_outputs(original, model, feeds=feeds(original))


def test_all_that_both_exporters_write_is_tried() -> None:
    single = {name for name, item in ARCHITECTURES.items() if item.exporters == ("dynamo",)}
    assert single == set(NOT_BY_TORCHSCRIPT)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_BY_TORCHSCRIPT)
def test_torchscript_has_no_valid_file(name: str) -> None:
    def run() -> None:
        model = load(str(exported(name, "torchscript"))).model
        with session(model) as opened:
            opened.run(feeds(model))

    with pytest.raises(BurnishError) as error:
        run()
    assert NOT_BY_TORCHSCRIPT[name] in str(error.value)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_target_that_prefers_grouped_queries(exporter: Exporter) -> None:
    model = load(str(exported("llama-causal", exporter))).model
    original = model.clone()
    run_pass(PIPELINE, model, target=WANTS_GROUPED)
    found = Counter(node.op_type for node in model.graph.all_nodes())
    assert found["GroupQueryAttention"] == ARCHITECTURES["llama-causal"].attentions
    assert found["Attention"] == 0
    assert_same_outputs(original, model, feeds=feeds(original))
