# SPDX-License-Identifier: Apache-2.0
"""Near misses: the node, the constraint that failed there, and what would clear it."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.explain import Explain, NearMiss, repair_for
from burnish.passes.pattern import const
from burnish.passes.pipeline import Pipeline
from burnish.passes.rule import NoMatch, Rule, pass_of, rule
from burnish.testing import parse


def explained(model: ir.Model, *items: Rule | Pass, pattern: str = "scaled-*") -> list[NearMiss]:
    """Run rules or passes one after the other and return what was nearly rewritten."""
    ctx = PassContext(Target.parse("cpu"), explain=Explain(pattern))
    passes = [pass_of(item.name, item)() if isinstance(item, Rule) else item for item in items]
    model = Pipeline.of(passes).run(model, ctx)
    assert ctx.explain is not None
    return ctx.explain.left_in(model)


@rule
def scaled_relu(op: Any, x: Any, s: Any = const()) -> Any:
    """Mul(Relu(Neg(x)), s) -> Mul(Abs(x), s)."""
    return op.Mul(op.Relu(op.Neg(x)), s)


@scaled_relu.rewrite
def _(op: Any, x: Any, s: Any) -> Any:
    if x.rank == 3:
        return NoMatch("rank 3", repair="use another rank")
    return op.Mul(op.Abs(x), s) if x.rank == 1 else NoMatch("the rank is unknown to me")


_HEAD = "g (float[{dims}] x, float[1] z) => (float[{dims}] y{more}) <float[1] k = {{2}}> "


@pytest.mark.parametrize(
    ("body", "more", "dims", "at", "reason", "repair"),
    [
        (
            "{ a = Neg(x) r = Relu(a) y = Mul(r, k) w = Abs(r) }",
            ", float[2] w",
            "2",
            "r",
            "the inner Relu is used elsewhere too",
            "remove the other user, or duplicate the node for it",
        ),
        (
            "{ a = Neg(x) r = Relu(a) y = Mul(r, k) }",
            ", float[2] a",
            "2",
            "a",
            "the inner Neg is an output of the graph",
            "drop that output, or duplicate the node for it",
        ),
        (
            "{ a = Tanh(x) r = Relu(a) y = Mul(r, k) }",
            "",
            "2",
            "a",
            "Tanh stands where Neg should",
            "write it with that operator, or give the rule this spelling",
        ),
        (
            "{ a = Neg(x) r = Relu(a) y = Mul(r, z) }",
            "",
            "2",
            "",
            "s is not constant",
            "make it constant: an initializer that is no input of the graph",
        ),
        ("{ a = Neg(x) r = Relu(a) y = Mul(r, k) }", "", "2,2,2", "", "rank 3", "use another rank"),
        (
            "{ a = Neg(x) r = Relu(a) y = Mul(r, k) }",
            "",
            "2,2",
            "",
            "the rank is unknown to me",
            "declare shapes and types of the model's inputs",
        ),
    ],
)
def test_each_failure_names_its_node_and_what_would_clear_it(
    body: str, more: str, dims: str, at: str, reason: str, repair: str
) -> None:
    model = parse(_HEAD.format(dims=dims, more=more) + body)
    assert explained(model, scaled_relu) == [
        NearMiss("scaled-relu", "y", "Mul", at, reason, repair)
    ]


def test_what_the_target_does_not_run() -> None:
    @rule
    def to_gelu(op: Any, x: Any) -> Any:
        """Relu(x) -> Gelu(x)."""
        return op.Relu(x)

    @to_gelu.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Gelu(x)

    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    (miss,) = explained(model, to_gelu, pattern="*")
    assert miss.reason.startswith("target cpu does not run Gelu")
    assert miss.repair == "raise the opset with the pass upgrade, or choose another --target"


@pytest.mark.parametrize(
    "reason",
    [
        "attribute axis of Softmax differs",
        "a stands for two different values",
        "an input of Mul is not computed by a node",
        "an input of Mul is computed in an outer graph",
        "an operand is not the number 0.5",
        "an operand is 2, not 0.5",
        "input low is missing",
        "c has another value",
        "the replacement has another type",
        "the replacement has another shape",
        "fusing would make a cycle",
        "the weights are not constant",
    ],
)
def test_every_constraint_of_the_matcher_and_the_driver_has_a_repair(reason: str) -> None:
    assert repair_for(reason)


def test_a_rule_that_says_nothing_else_gets_no_made_up_repair() -> None:
    assert repair_for("the axes move") == ""
    assert repair_for("the shape changes or is not known") == ""


def test_what_another_rule_rewrote_after_all_is_left_out() -> None:
    @rule
    def tanh_first(op: Any, x: Any) -> Any:
        """Mul(Relu(Tanh(x)), 2) -> Sin(x)."""
        return op.Mul(op.Relu(op.Tanh(x)), 2.0)

    @tanh_first.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Sin(x)

    text = _HEAD.format(dims="2", more="") + "{ a = Tanh(x) r = Relu(a) y = Mul(r, k) }"
    assert len(explained(parse(text), scaled_relu)) == 1
    assert explained(parse(text), scaled_relu, tanh_first) == []


def test_a_place_is_listed_once_with_what_was_said_last() -> None:
    text = _HEAD.format(dims="2", more="") + "{ a = Tanh(x) r = Relu(a) y = Mul(r, k) }"
    found = explained(parse(text), scaled_relu, scaled_relu)
    assert [miss.node for miss in found] == ["y"]


def test_only_the_rules_asked_for_are_collected() -> None:
    text = _HEAD.format(dims="2", more="") + "{ a = Tanh(x) r = Relu(a) y = Mul(r, k) }"
    assert explained(parse(text), scaled_relu, pattern="other-*") == []
    assert len(explained(parse(text), scaled_relu, pattern="scaled-*")) == 1


def test_less_than_most_of_a_pattern_is_news_only_when_asked_for_by_name() -> None:
    text = _HEAD.format(dims="2", more="") + "{ a = Tanh(x) r = Relu(a) y = Mul(r, k) }"
    assert explained(parse(text), scaled_relu, pattern="*") == []
    text = _HEAD.format(dims="2", more="") + "{ a = Neg(x) r = Relu(a) y = Mul(r, z) }"
    assert len(explained(parse(text), scaled_relu, pattern="*")) == 1


def test_passes_that_are_no_rules_are_explained_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Shy(Pass):
        name = "shy"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            ctx.refuse("look", model.graph.inputs[0], "too small")

    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert explained(model, Shy(), pattern="*") == [NearMiss("look", "x", "", "", "too small", "")]
