# SPDX-License-Identifier: Apache-2.0
"""onnxscript rewrite rules run in a pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

pytest.importorskip("onnxscript")

from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from burnish.errors import InputError
from burnish.passes.onnxscript import onnxscript
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_rewrites, parse, rewrites, run_pass


def _pattern(op: Any, x: Any) -> Any:
    return op.Relu(op.Relu(x))


def _replacement(op: Any, x: Any) -> Any:
    return op.Relu(x)


relu_relu = RewriteRule(_pattern, _replacement)
rule_set = RewriteRuleSet([relu_relu])
rule_list = [relu_relu]
no_rules: list[RewriteRule] = []


class ReluRelu(RewriteRuleClassBase):
    """The same as a class."""

    def pattern(self, op: Any, x: Any) -> Any:
        return _pattern(op, x)

    def rewrite(self, op: Any, x: Any) -> Any:
        return _replacement(op, x)


def make_rules() -> RewriteRuleSet:
    return RewriteRuleSet([relu_relu])


def _fail(op: Any, x: Any) -> Any:
    raise RuntimeError("on purpose")


failing = RewriteRule(_pattern, _fail)


def _model() -> ir.Model:
    return parse(
        "g (float[N] x) => (float[N] y) <float[1] unused = {1}> "
        "{ a = Relu(x)  b = Relu(a)  y = Neg(b) }"
    )


@pytest.mark.parametrize("rules", [relu_relu, rule_set, rule_list, (relu_relu,), ReluRelu])
def test_every_form_of_rules_rewrites_and_computes_the_same(rules: Any) -> None:
    after = parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Neg(a) }")
    assert_rewrites(onnxscript(rules), _model(), after)


@pytest.mark.parametrize("name", ["relu_relu", "rule_set", "rule_list", "ReluRelu", "make_rules"])
def test_text_form(name: str) -> None:
    text = f"onnxscript{{rules={__name__}:{name}}}"
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse(text) == Pipeline.parse(text)
    model = _model()
    assert rewrites(run_pass(text, model)) == {name: 1}
    assert len(model.graph) == 2


def test_round_trip_of_what_a_module_names() -> None:
    made = onnxscript(make_rules)
    assert Pipeline.parse(str(made)) == Pipeline((made,))


def test_rules_that_ship_with_onnxscript() -> None:
    model = parse(
        "g (float[N] x) => (float[N] y) <float one = {1.0}> { a = Mul(x, one)  y = Relu(a) }"
    )
    text = "onnxscript{rules=onnxscript.rewriter.rules.common:mul_by_1_rule}"
    assert rewrites(run_pass(text, model)) == {"mul_by_1_rule": 1}
    assert [node.op_type for node in model.graph] == ["Identity", "Relu"]


def test_without_a_match_nothing_is_touched() -> None:
    model = parse(
        "g (float[N] x) => (float[N] y) <float[1] unused = {1}> { d = Neg(x)  y = Relu(x) }"
    )
    ctx = run_pass(onnxscript(relu_relu), model)
    assert not ctx.reports[0].changed
    assert len(model.graph) == 2
    assert "unused" in model.graph.initializers


def test_a_rule_that_fails_leaves_the_model_alone() -> None:
    model = _model()
    with pytest.raises(InputError, match="failed: "):
        run_pass(onnxscript(failing), model)
    assert [node.op_type for node in model.graph] == ["Relu", "Relu", "Neg"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (f"{__name__}:relu_rleu", "did you mean 'relu_relu'?"),
        (f"{__name__}:no_rules", "holds no onnxscript rewrite rules"),
        ("json:__name__", "holds no onnxscript rewrite rules"),
    ],
)
def test_a_bad_reference_is_an_error_when_the_pipeline_is_read(
    reference: str, message: str
) -> None:
    with pytest.raises(InputError, match="pipeline: onnxscript: ") as caught:
        Pipeline.parse(f"onnxscript{{rules={reference}}}")
    assert message in str(caught.value)


def test_without_onnxscript_one_line_names_the_extra(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "from burnish.passes.pipeline import Pipeline\n"
        "Pipeline.parse('onnxscript{rules=a:b}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode
    assert "onnxscript is not installed; run: pip install 'burnish[onnxscript]'" in done.stderr
