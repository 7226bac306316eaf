# SPDX-License-Identifier: Apache-2.0
"""A pass written for onnx-ir runs in a pipeline; what it says about itself is not relied on."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
)

from burnish.errors import InputError
from burnish.passes.onnxir import onnxir
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_rewrites, parse, rewrites, run_pass

_CSE = "onnx_ir.passes.common:CommonSubexpressionEliminationPass"


class Liar(ir.passes.InPlacePass):
    """Changes nothing and says it did; or the other way round."""

    def __init__(self, *, edit: bool = False) -> None:
        self.edit = edit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if self.edit:
            model.graph[0].name = "edited"
        return ir.passes.PassResult(model, modified=not self.edit)


class Rebuild(ir.passes.FunctionalPass):
    """Gives a new model object."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        made = model.clone()
        made.producer_name = "rebuilt"
        made.metadata_props["rebuilt"] = "yes"
        return ir.passes.PassResult(made, modified=True)


class Failing(ir.passes.InPlacePass):
    """Edits, then raises."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.remove(list(model.graph)[-1:])
        raise AssertionError("not reached")


class NeedsMore(Failing):
    """Cannot be made without arguments."""

    def __init__(self, level: int) -> None:
        self.level = level


def editing_liar() -> ir.passes.PassBase:
    return Liar(edit=True)


def _twice() -> ir.Model:
    return parse("g (float[N] x) => (float[N] y) { a = Relu(x)  b = Relu(x)  y = Add(a, b) }")


def test_runs_a_class_and_computes_the_same() -> None:
    after = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Add(a, a) }")
    assert_rewrites(onnxir(CommonSubexpressionEliminationPass), _twice(), after)


def test_counts_one_rewrite_named_after_the_pass() -> None:
    model = _twice()
    before = model
    assert rewrites(run_pass(f"onnx-ir{{pass={_CSE}}}", model)) == {
        "CommonSubexpressionEliminationPass": 1
    }
    assert model is before
    ctx = run_pass(f"onnx-ir{{pass={_CSE}}}", model)
    assert not ctx.reports[0].changed


@pytest.mark.parametrize("limit", [0, 1])
def test_bisects_by_the_rewrite(limit: int) -> None:
    model = _twice()
    run_pass(onnxir(CommonSubexpressionEliminationPass), model, limit=limit)
    assert len(model.graph) == 3 - limit


def test_takes_instances() -> None:
    assert rewrites(run_pass(onnxir(Liar(edit=True)), _twice())) == {"Liar": 1}


def test_what_a_pass_says_about_itself_is_not_relied_on() -> None:
    assert rewrites(run_pass(onnxir(Liar), _twice())) == {}
    assert rewrites(run_pass(onnxir(editing_liar), _twice())) == {"editing_liar": 1}


def test_a_pass_that_returns_a_new_model() -> None:
    model = _twice()
    run_pass(onnxir(Rebuild), model)
    assert (model.producer_name, model.metadata_props["rebuilt"]) == ("rebuilt", "yes")


def test_only_metadata_changing_is_a_change() -> None:
    model = _twice()
    model.graph[1].metadata_props["a"] = "b"
    assert rewrites(run_pass(onnxir(ClearMetadataAndDocStringPass), model)) == {
        "ClearMetadataAndDocStringPass": 1
    }
    assert not model.graph[1].metadata_props


def test_weights_are_shared_not_copied() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Identity(x)  y = Add(a, w) }"
    )
    tensor = model.graph.initializers["w"].const_value
    assert rewrites(run_pass(onnxir(IdentityEliminationPass), model))
    assert model.graph.initializers["w"].const_value is tensor


def test_text_form() -> None:
    made = onnxir(CommonSubexpressionEliminationPass)
    text = str(made)
    assert text.startswith("onnx-ir{pass=onnx_ir.passes.common.")
    assert Pipeline.parse(text) == Pipeline((made,))
    assert str(Pipeline.parse(f"onnx-ir{{pass={_CSE}}}")) == f"onnx-ir{{pass={_CSE}}}"


def test_an_object_that_no_module_names_says_so_when_read_back() -> None:
    text = str(onnxir(Liar(edit=True)))
    with pytest.raises(InputError, match="cannot be imported"):
        Pipeline.parse(text)


def test_a_pass_that_fails_leaves_the_model_alone() -> None:
    model = _twice()
    with pytest.raises(InputError, match="Failing failed: ") as caught:
        run_pass(onnxir(Failing), model)
    assert "\n" not in str(caught.value)
    assert len(model.graph) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("onnx_ir.passes.common:CheckerPas", "did you mean 'CheckerPass'?"),
        ("onnx_ir:Model", "failed: TypeError"),
        ("json:JSONEncoder", "is not an onnx_ir pass but a JSONEncoder"),
        (f"{__name__}:NeedsMore", "failed: TypeError"),
    ],
)
def test_a_bad_reference_is_an_error_when_the_pipeline_is_read(
    reference: str, message: str
) -> None:
    with pytest.raises(InputError, match="pipeline: onnx-ir: ") as caught:
        Pipeline.parse(f"onnx-ir{{pass={reference}}}")
    assert message in str(caught.value)
