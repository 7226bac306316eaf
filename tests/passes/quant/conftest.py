# SPDX-License-Identifier: Apache-2.0
"""Samples for small networks, a look at what the runtime runs, and how far outputs move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.census import executed_model
from burnish.backends.target import Target
from burnish.passes.calibration import CalibrationSource

Samples = Callable[..., CalibrationSource]
Census = Callable[[ir.Model], Counter[str]]
Error = Callable[[ir.Model, ir.Model], float]


@pytest.fixture
def samples() -> Samples:
    """Give a model standard normal inputs: `samples(model, shape, count=8)`."""

    def make(model: ir.Model, *shape: int, count: int = 8, seed: int = 1) -> CalibrationSource:
        name = model.graph.inputs[0].name or ""

        def feeds() -> list[Mapping[str, np.ndarray]]:
            rng = np.random.default_rng(seed)
            return [{name: rng.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]

        return CalibrationSource.from_iterable(feeds, model.graph.inputs)

    return make


@pytest.fixture
def census() -> Census:
    """Count the operators of the graph that ONNX Runtime really runs, fully optimized."""

    def count(model: ir.Model) -> Counter[str]:
        return Counter(node.op_type for node in executed_model(model, Target.parse("cpu")).graph)

    return count


@pytest.fixture
def error() -> Error:
    """Relative RMS difference of the outputs of two models on fresh random inputs."""

    def difference(before: ir.Model, after: ir.Model) -> float:
        from burnish.backends import onnxruntime
        from burnish.backends.feeds import random_feeds

        with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
            feeds = random_feeds(old, seed=7)
            worst = 0.0
            for name, expected in old.run(feeds).items():
                actual = new.run(feeds)[name]
                assert actual.shape == expected.shape
                worst = max(
                    worst,
                    float(np.linalg.norm(actual - expected)) / float(np.linalg.norm(expected)),
                )
        return worst

    return difference


@pytest.fixture
def pairs_are_whole() -> Callable[[ir.Model], None]:
    """Each quantized value is dequantized and each dequantized one used; no constant is left."""

    def check(model: ir.Model) -> None:
        for node in model.graph:
            if node.op_type == "QuantizeLinear":
                assert [user.op_type for user in node.outputs[0].consumers()] == [
                    "DequantizeLinear"
                ]
            for value in node.outputs:
                assert value.uses() or value.is_graph_output(), f"{node.name} dangles"
        for value in model.graph.initializers.values():
            assert value.uses(), f"initializer {value.name} is left over"

    return check
