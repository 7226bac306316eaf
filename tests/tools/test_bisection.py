# SPDX-License-Identifier: Apache-2.0
"""Bisection finds the one rewrite at fault among many, and says when none is."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.instrument import Disable, Event
from burnish.passes.pipeline import Pipeline
from burnish.passes.rule import RulePass, pass_of, rule
from burnish.testing import parse
from burnish.tools.bisection import Culprit, Trial, first_bad, trial_of


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_every_place_is_found_in_few_trials(count: int) -> None:
    for wrong in {1, 2, count // 2, count - 1, count} & set(range(1, count + 1)):
        trials: list[int | None] = []

        def trial(limit: int | None, wrong: int = wrong) -> Trial:
            trials.append(limit)  # noqa: B023
            done = count if limit is None else limit
            event = Event("rewrite", "r", done, f"node {done}", "p") if done else None
            return Trial(event, f"wrong since {wrong}" if done >= wrong else None)

        assert first_bad(trial) == Culprit(wrong, "r", f"node {wrong}", "p", f"wrong since {wrong}")
        assert len(trials) <= 2 + count.bit_length()


def test_a_good_model_takes_one_trial() -> None:
    trials: list[int | None] = []

    def trial(limit: int | None) -> Trial:
        trials.append(limit)
        return Trial(None, None)

    assert first_bad(trial) is None
    assert trials == [None]


def test_what_is_wrong_without_rewrites_is_no_rewrites_fault() -> None:
    event = Event("rewrite", "r", 5, "n", "p")
    with pytest.raises(InputError, match="no rewrite is at fault: with none done, it is cursed"):
        first_bad(lambda limit: Trial(None if limit == 0 else event, "it is cursed"))


@rule
def relu_twice(op: Any, x: Any) -> Any:
    """Relu(Relu(x)) -> Relu(x), which is right."""
    return op.Relu(op.Relu(x))


@relu_twice.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Relu(x)


@rule
def abs_twice(op: Any, x: Any) -> Any:
    """Abs(Abs(x)) -> x, which is wrong; where x is an input alone does it matter here."""
    return op.Abs(op.Abs(x))


@abs_twice.rewrite
def _(op: Any, x: Any) -> Any:
    return x


class Halves(RulePass):
    """The right rule and the wrong one."""

    name = "halves"
    rules = (relu_twice, abs_twice)


def _model() -> ir.Model:
    # Ten places of the right rule, one of them under the wrong one, where it does no harm.
    body = " ".join(f"a{i} = Relu(x) b{i} = Relu(a{i}) y{i} = Neg(b{i})" for i in range(10))
    body += " c = Abs(b3) d = Abs(c) y10 = Neg(d)  e = Abs(x) f = Abs(e) y11 = Neg(f)"
    outputs = ", ".join(f"float[8] y{i}" for i in range(12))
    return parse(f"g (float[8] x) => ({outputs}) {{ {body} }}")


def test_a_wrong_rule_is_found_where_it_does_harm() -> None:
    told: list[str] = []
    culprit = first_bad(trial_of(_model(), Pipeline((Halves(),)), progress=told.append))
    assert culprit is not None
    assert (culprit.number, culprit.rule, culprit.node) == (12, "abs-twice", "Abs_f")
    assert culprit.of == "halves"
    assert culprit.problem.startswith("after halves the outputs differ: ")
    assert "bisect" not in culprit.problem
    assert told[0] == "all rewrites: bad"
    assert told[1] == "the first 0 rewrites: good"
    assert len(told) <= 6


def test_without_the_wrong_rule_all_is_good() -> None:
    trial = trial_of(_model(), Pipeline((Halves(),)), instruments=[Disable(("abs-twice",))])
    assert first_bad(trial) is None


def test_a_rewrite_that_raises_is_found_too() -> None:
    class Breaks(RulePass):
        """Raises in the middle of its third rewrite."""

        name = "breaks"
        rules = (relu_twice,)

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            for node in model.graph:
                with ctx.rewrite("step", node) as go:
                    if go and node.outputs[0].name == "y0":
                        raise KeyError("lost")

    culprit = first_bad(trial_of(_model(), Pipeline((Breaks(),))))
    assert culprit is not None
    assert (culprit.number, culprit.node) == (3, "Neg_y0")
    assert culprit.problem == "it raised KeyError('lost')"


def test_a_model_that_does_not_run_cannot_be_bisected() -> None:
    text = "g (float[2] x) => (float[2] y) { y = elsewhere.Unknown(x) }"
    header = '<ir_version: 10, opset_import: ["" : 21, "elsewhere" : 1]>'
    passes = Pipeline((pass_of("one", relu_twice)(),))
    with pytest.raises(InputError, match=r"there is nothing to compare with: .*Unknown"):
        first_bad(trial_of(parse(header + text), passes))
