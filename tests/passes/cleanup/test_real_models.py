# SPDX-License-Identifier: Apache-2.0
"""Real models: the same bits out of fewer nodes, no more of them than the peers leave."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from burnish import frontends
from burnish.backends.feeds import random_feeds
from burnish.backends.onnxruntime import session
from burnish.errors import MissingExtraError
from burnish.testing import rewrites, run_pass
from burnish.tools import zoo

pytestmark = pytest.mark.zoo

# Nodes that are left by onnxslim 0.1.98 or onnxsim 0.8.1, whichever leaves fewer.
PEERS = {
    "ppocrv6-rec": 280,
    "ppocrv6-det": 227,
    "minilm-l6-dynamo": 278,
    "minilm-l6-torchscript": 365,
    "efficientnet-lite0": 94,
    "mnist-cnn": 10,
    "quantized-distilbert": 526,
    "quantized-t5-encoder": 646,
    "quantized-t5-decoder": 1063,
}
# The same of models whose weights are fills.
LIGHT = {
    "light-alexnet": 22,
    "light-densenet121": 491,
    "light-inception-v1": 138,
    "light-inception-v2": 154,
    "light-resnet50": 123,
    "light-shufflenet": 154,
    "light-squeezenet": 65,
    "light-vgg19": 44,
    "light-zfnet512": 22,
}
_QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "MatMulInteger", "DynamicQuantizeLinear")


def load(name: str) -> ir.Model:
    """Load a model of the zoo; skip what takes a package to export that is not there."""
    try:
        return frontends.load(zoo.fetch(name)).model
    except MissingExtraError as error:
        pytest.skip(str(error))


def op_types(model: ir.Model) -> Counter[str]:
    """Count the operators of all nodes, inner graphs included."""
    return Counter(node.op_type for node in model.graph.all_nodes())


@pytest.mark.parametrize("name", PEERS)
def test_cleanup_keeps_every_bit_and_rests(name: str) -> None:
    model = load(name)
    original = model.clone()
    with session(original) as running:
        feeds = random_feeds(running, seed=0)
        expected = running.run(feeds)
    run_pass("cleanup", model)
    assert dict(model.metadata_props) == dict(original.metadata_props)
    assert [value.name for value in model.graph.outputs] == list(expected)
    with session(model) as running:
        actual = running.run(feeds)
    for output, array in expected.items():
        np.testing.assert_array_equal(actual[output], array, strict=True)
    assert not rewrites(run_pass("cleanup", model))


@pytest.mark.parametrize(("name", "nodes"), [*PEERS.items(), *LIGHT.items()])
def test_no_more_nodes_than_the_peers_leave(name: str, nodes: int) -> None:
    model = load(name)
    run_pass("fuse", model)
    assert sum(op_types(model).values()) <= nodes


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("quantized")])
def test_what_is_quantized_passes_unharmed(name: str) -> None:
    model = load(name)
    before = op_types(model)
    packed = {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.bitwidth <= 8
        and value.const_value.size > 1000
    }
    run_pass("cleanup", model)
    after = op_types(model)
    assert all(after[op] == before[op] for op in _QUANTIZED if op != "DynamicQuantizeLinear")
    assert packed <= set(model.graph.initializers)
