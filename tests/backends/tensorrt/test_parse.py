# SPDX-License-Identifier: Apache-2.0
"""Nodes that TensorRT's parser refuses: which, who made them, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.backends.tensorrt import build, parse
from burnish.backends.tensorrt.parse import UnsupportedError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext

Made = Any


def read(trt: Any, model: ir.Model, folder: Path) -> parse.Parsed:
    path = folder / "model.onnx"
    ir.save(model, path)
    return parse.read(trt, build.builder(trt), path, model)


def test_all_refused_nodes_are_named(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made(
        """g (float[N,4] x, float[2,3,8,8] image) => (float[M] y, float[2,3,4,4] z) {
            a = Relu(x)
            [pick] y, i, j, k = Unique(a)
            [pool] z = MaxPool<kernel_shape=[2,2], strides=[1,1], dilations=[2,2]>(image)
        }"""
    )
    with pytest.raises(UnsupportedError) as caught:
        read(trt, model, tmp_path)
    unique, pool = caught.value.nodes
    assert (unique.node, unique.op_type, unique.made_by) == ("pick", "Unique", None)
    assert unique.reason == "it does not support this operator"
    assert "graphsurgeon" in unique.remedy
    assert (pool.node, pool.op_type) == ("pool", "MaxPool")
    assert "does not support dilations other than 1" in pool.reason
    text = str(caught.value)
    assert text.startswith("TensorRT does not take 2 nodes: Unique 'pick' (as it came): ")
    assert "\n" not in text


def test_nameless_nodes_go_by_their_first_output(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Unknown(a) }")
    with pytest.raises(UnsupportedError, match=r"Unknown 'y' .*neither an importer nor a plugin"):
        read(trt, model, tmp_path)


def test_quantized_for_another_runtime(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made(
        """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {77}> {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }"""
    )
    with pytest.raises(UnsupportedError, match="zero point is not 0; quantize the float model"):
        read(trt, model, tmp_path)


class Spoil(Pass):
    """Writes what TensorRT does not take."""

    name = "spoil"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        (node,) = model.graph
        with ctx.rewrite("spoil", node) as go:
            if go:
                new = ir.node("Det", node.inputs, name="spoilt")
                new.outputs[0].dtype, new.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(["N"])
                model.graph.insert_after(node, new)
                model.graph.outputs.append(new.outputs[0])
                new.outputs[0].name = "det"


def test_the_pass_that_made_a_node_is_blamed(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = made("g (float[N,4,4] x) => (float[N,4,4] y) { y = Relu(x) }")
    with pytest.raises(UnsupportedError, match=r"Det 'spoilt' \(made by spoil\).*--disable spoil"):
        burnish.optimize(
            model,
            Spoil(),
            target="tensorrt-rtx:sm89",
            artifact=tmp_path / "out",
            verify="off",
        )
    assert not (tmp_path / "out").exists()


def test_the_network_is_typed_as_the_model(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made(
        """g (float[N,16] x) => (float[N,16] y) {
            a = Cast<to=10>(x)
            b = MatMul(a, w)
            y = Cast<to=1>(b)
        }""",
        w=np.ones((16, 16), np.float16),
    )
    network = read(trt, model, tmp_path).network
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    kinds = {network.get_layer(i).type: network.get_layer(i) for i in range(network.num_layers)}
    assert kinds[trt.LayerType.MATRIX_MULTIPLY].get_output(0).dtype == trt.float16
    assert network.get_output(0).dtype == trt.float32


def test_weights_beside_the_model_are_read(trt: Any, made: Made, tmp_path: Path) -> None:
    model = made("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=(64, 64))
    ir.save(model, tmp_path / "model.onnx", external_data="weights.data", size_threshold_bytes=0)
    parsed = parse.read(trt, build.builder(trt), tmp_path / "model.onnx", model)
    assert parsed.network.num_layers >= 2
