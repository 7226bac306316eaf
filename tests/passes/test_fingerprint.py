# SPDX-License-Identifier: Apache-2.0
"""The fingerprint sees every edit that would be saved, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fingerprint import fingerprint
from burnish.testing import parse


def _model() -> ir.Model:
    return parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N,4] x, bool flag) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> {
          t = local.scale <k = 2.0> (x)
          u = If (flag) <
            then_branch = then () => (float[N,4] a) { a = Add(t, w) },
            else_branch = orelse () => (float[N,4] b) { b = Identity(t) }
          >
          y = LeakyRelu <alpha = 0.5> (u)
        }
        <opset_import: ["" : 21], domain: "local">
        scale <k> (v) => (r) { c = Constant <value_float: float = @k> ()  r = Mul(v, c) }
        """
    )


def _then(model: ir.Model) -> ir.Graph:
    return model.graph[1].attributes["then_branch"].as_graph()


EDITS: dict[str, Callable[[ir.Model], object]] = {
    "model metadata": lambda m: m.metadata_props.update(a="b"),
    "graph metadata": lambda m: m.graph.metadata_props.update(a="b"),
    "node metadata": lambda m: m.graph[0].metadata_props.update(a="b"),
    "value metadata": lambda m: m.graph[0].outputs[0].metadata_props.update(a="b"),
    "annotation": lambda m: m.graph.inputs[0].meta.update(
        quant_parameter_tensor_names={"SCALE_TENSOR": "w"}
    ),
    "node name": lambda m: setattr(m.graph[0], "name", "other"),
    "node doc": lambda m: setattr(m.graph[0], "doc_string", "other"),
    "value name": lambda m: setattr(m.graph[0].outputs[0], "name", "other"),
    "value type": lambda m: setattr(m.graph[0].outputs[0], "type", ir.TensorType(ir.DataType.INT8)),
    "input shape": lambda m: setattr(m.graph.inputs[0], "shape", ir.Shape(["M", 4])),
    "opset": lambda m: m.opset_imports.update({"": 20}),
    "ir version": lambda m: setattr(m, "ir_version", 9),
    "attribute": lambda m: m.graph[2].attributes.add(ir.AttrFloat32("alpha", 0.25)),
    "attribute gone": lambda m: m.graph[2].attributes.pop("alpha"),
    "order of inputs": lambda m: m.graph.inputs.reverse(),
    "subgraph node": lambda m: setattr(_then(m)[0], "op_type", "Sub"),
    "subgraph input": lambda m: _then(m)[0].replace_input_with(1, m.graph.inputs[0]),
    "function node": lambda m: setattr(next(iter(m.functions.values()))[1], "op_type", "Div"),
    "function doc": lambda m: setattr(next(iter(m.functions.values())), "doc_string", "other"),
    "tensor": lambda m: setattr(
        m.graph.initializers["w"],
        "const_value",
        ir.tensor(np.array([1, 2, 3, 4], np.float32), name="w"),
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_sees_an_edit(edit: Callable[[ir.Model], object]) -> None:
    model = _model()
    before = fingerprint(model)
    edit(model)
    assert fingerprint(model) != before


def test_a_copy_is_equal() -> None:
    model = _model()
    assert fingerprint(model.clone()) == fingerprint(model) == fingerprint(model)


def test_external_tensors_are_known_by_their_place_and_not_read(tmp_path: Path) -> None:
    def model(offset: int) -> ir.Model:
        made = _model()
        made.graph.initializers["w"].const_value = ir.ExternalTensor(
            "absent.data", offset, 16, ir.DataType.FLOAT, shape=ir.Shape([4]), name="w",
            base_dir=tmp_path,
        )  # fmt: skip
        return made

    assert fingerprint(model(0)) == fingerprint(model(0)) != fingerprint(model(16))
