# SPDX-License-Identifier: Apache-2.0
"""Small networks with random weights, samples for them, and a look at what the runtime runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.passes.calibration import CalibrationSource

Build = Callable[..., ir.Model]
Samples = Callable[..., CalibrationSource]
Executed = Callable[[ir.Model], onnx.GraphProto]
Census = Callable[[ir.Model], Counter[str]]
Error = Callable[[ir.Model, ir.Model], float]


@pytest.fixture
def build() -> Build:
    """Make a model from text, with random normal weights: `build(text, w=(8, 3, 3, 3), b=(8,))`.

    Weights are scaled by the root of their fan-in so that activations keep their size.
    """

    def make(text: str, opset: int = 21, **weights: tuple[int, ...] | np.ndarray) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
        rng = np.random.default_rng(0)
        for name, given in weights.items():
            if isinstance(given, np.ndarray):
                array = given
            else:
                fan_in = int(np.prod(given[1:] if len(given) > 2 else given[:-1])) or 1
                array = rng.normal(0, fan_in**-0.5, given).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return ir.from_proto(proto)

    return make


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
def executed(tmp_path: Path) -> Executed:
    """Return the graph that ONNX Runtime really runs, fully optimized."""

    def graph(model: ir.Model) -> onnx.GraphProto:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        proto = ir.to_proto(model).SerializeToString()
        onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        return onnx.load(tmp_path / "optimized.onnx").graph

    return graph


@pytest.fixture
def census(executed: Executed) -> Census:
    """Count the operators of that graph."""
    return lambda model: Counter(node.op_type for node in executed(model).node)


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
