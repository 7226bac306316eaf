# SPDX-License-Identifier: Apache-2.0
"""How often two models are compared before it is said which is faster."""

from __future__ import annotations

import pytest

from burnish.backends.answers import Answer
from burnish.backends.target import Target
from burnish.passes import whole
from burnish.passes.decide import Decisions
from burnish.passes.inputs import Sample
from burnish.testing import parse


@pytest.mark.parametrize(
    ("answers", "compared"),
    [
        ([Answer(1.0, 0.99, 1.01)], 1),  # nothing disturbed it
        ([Answer(1.6, 1.2, 1.9)], 1),  # wide, but it does not matter
        ([Answer(0.6, 0.5, 0.9)], 1),
        ([Answer(1.2, 1.02, 1.4), Answer(1.1, 1.09, 1.11)], 2),
        ([Answer(1.0, 0.9, 1.2), Answer(1.0, 0.92, 1.1), Answer(1.0, 0.94, 1.3)], 3),
        ([Answer(0.9, 0.8, 0.95), Answer(0.9, 0.8, 1.3), Answer(0.9, 0.7, 1.2)], 3),
    ],
)
def test_a_comparison_that_was_disturbed_is_made_again_unless_the_answer_is_clear(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer], compared: int
) -> None:
    made: list[Answer] = []

    def found(*_: object) -> Answer:
        made.append(answers[len(made)])
        return made[-1]

    monkeypatch.setattr(whole, "_compared", found)
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    answer = whole._timed(model, model, Sample({}), 1.0)
    assert len(made) == compared
    assert answer == min(made, key=lambda item: item.high / item.low)


def test_a_question_is_the_same_however_much_the_sample_has_learned() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    keys = []
    for more in ({}, {"M": 3}, {"M": None}):
        decisions = Decisions(Target.parse("cpu"), print, measure=False)
        decisions.sample.sizes.update({"N": 5, **more})
        keys.append(whole.ask(decisions, model, model, "?", rule="r", operator="r").key)
    assert len(set(keys)) == 1
    decisions.sample.sizes["N"] = 6
    assert whole.ask(decisions, model, model, "?", rule="r", operator="r").key != keys[0]
