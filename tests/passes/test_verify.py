# SPDX-License-Identifier: Apache-2.0
"""The verifier finds each kind of malformed model, and nothing wrong with good ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.backend.test.loader import load_model_tests

from burnish.passes.verify import verify
from burnish.testing import parse


def _model() -> ir.Model:
    return parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Mul(x, w)  y = Relu(t) }"
    )


def test_a_good_model_has_no_problems() -> None:
    assert verify(_model()) == []


def test_names_taken_twice() -> None:
    model = _model()
    model.graph[0].outputs[0].name = "x"
    assert verify(model) == ["node 'x' (Mul): output 'x': the name is taken"]


def test_use_before_definition() -> None:
    model = _model()
    mul = model.graph[0]
    model.graph.remove(mul)
    model.graph.append(mul)
    assert verify(model) == ["node 'y' (Relu): input 't' is used before defined"]


def test_a_cycle_is_use_before_definition() -> None:
    model = _model()
    mul, relu = model.graph
    mul.replace_input_with(1, relu.outputs[0])
    assert verify(model) == ["node 't' (Mul): input 'y' is used before defined"]


def test_outputs_that_nobody_computes() -> None:
    model = _model()
    model.graph.outputs.append(ir.Value(name="z"))
    assert verify(model) == ["output 'z' is never defined"]


def test_initializers_agree_with_their_tensors() -> None:
    model = _model()
    weight = model.graph.initializers["w"]
    weight.shape = ir.Shape([3])
    assert verify(model) == ["initializer 'w' is declared [3] but holds [2]"]
    weight.shape = ir.Shape(["N"])
    assert verify(model) == []
    weight.shape = ir.Shape([2])
    weight.const_value = ir.tensor(np.zeros(2, np.float64))
    assert verify(model) == ["initializer 'w' is declared FLOAT but holds DOUBLE"]
    weight.const_value = None
    assert verify(model) == ["initializer 'w' has no tensor"]


@pytest.mark.parametrize(
    "op_type", ["SimplifiedLayerNormalization", "LayerNormalization", "ParametricSoftplus"]
)
def test_operators_that_the_runtime_alone_has_in_the_standard_domain(op_type: str) -> None:
    model = _model()
    model.graph[1].op_type = op_type
    model.opset_imports[""] = 13
    assert verify(model) == []


def test_operators_of_another_opset_or_domain() -> None:
    model = _model()
    model.graph[1].op_type = "Gelu"
    model.opset_imports[""] = 17
    assert verify(model) == ["node 'y' (Gelu): opset 17 has no such operator"]
    model.graph[1].domain = "com.microsoft"
    assert verify(model) == ["node 'y' (Gelu): operator set 'com.microsoft' is not imported"]


def test_attributes_and_outputs_that_an_operator_does_not_have() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Gelu <approximate = 3> (x) }")
    assert verify(model) == ["node 'y' (Gelu): attribute 'approximate' is INT, not STRING"]
    model = parse("g (float[2] x) => (float[2] y) { y, z = Relu(x) }")
    assert verify(model) == ["node 'y' (Relu): 2 outputs, where it gives at most 1"]


def test_subgraphs_see_outer_values_and_not_the_other_way_round() -> None:
    model = parse("""g (bool c, float[2] x) => (float[2] y) {
        r = Relu(x)
        y = If(c) <
            then_branch = a () => (float[2] n) { n = Neg(r) },
            else_branch = b () => (float[2] i) { i = Identity(x) }
        >
    }""")
    assert verify(model) == []
    inner = model.graph[1].attributes["then_branch"].as_graph()
    outer = model.graph[0]
    outer.replace_input_with(0, inner[0].outputs[0])
    assert verify(model) == ["node 'r' (Relu): input 'n' is used before defined"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from making the cases
def test_the_operator_cases_of_onnx_are_well_formed() -> None:
    cases = load_model_tests(kind="node")
    assert len(cases) > 1800
    wrong = {case.name: verify(ir.from_proto(case.model)) for case in cases if case.model}
    assert {name: found for name, found in wrong.items() if found} == {}
