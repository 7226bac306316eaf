# SPDX-License-Identifier: Apache-2.0
"""What each rule brings to the whole model: it is built again without the rule, and both are timed.

A rewrite that pays where it is done may cost elsewhere: decisions, which time regions alone, do not
see that. An ablation does, and names the rule.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from burnish.backends.measure import RESOLUTION
from burnish.errors import BudgetError, BurnishError, InputError
from burnish.passes.build import Built, Job, Progress
from burnish.passes.decide import Decision, Decisions
from burnish.passes.instrument import Disable, Instrument
from burnish.passes.report import ModelStats
from burnish.passes.whole import ask, skeleton

if TYPE_CHECKING:
    from burnish.frontends import Loaded

_LONGEST = 30.0  # seconds for one comparison

Build = Callable[[Sequence[str]], ir.Model]
"""Builds the model with rules of these names held back."""


@dataclass(frozen=True)
class Contribution:
    """What one rule brings.

    Attributes:
        rule: Its name.
        rewrites: Places it was done at.
        nodes: Nodes of the model without it.
        decision: How fast the model with it is against the one without; `chosen` is "original"
            where that one is faster. None if there is nothing to time.
        note: Why not.
    """

    rule: str
    rewrites: int
    nodes: int
    decision: Decision | None = None
    note: str = ""

    @property
    def speedup(self) -> float:
        """Seconds without it over seconds with it; 1 where that is not known."""
        return (self.decision and self.decision.ratio) or 1.0

    @property
    def costs(self) -> bool:
        """Whether the model is faster without it."""
        return self.decision is not None and self.decision.chosen == "original"


def contributions(
    whole: ir.Model,
    build: Build,
    rules: Mapping[str, int],
    decisions: Decisions,
    held: Sequence[str] = (),
) -> Iterator[Contribution]:
    """Yield what each rule brings to a model.

    Args:
        whole: The model with all rules but those in `held`.
        build: Builds it anew.
        rules: Rule -> rewrites it did.
        decisions: Of the build: answers are kept, and replayed.
        held: Rules that are held back in any case.
    """
    same = skeleton(whole)
    for rule, rewrites in rules.items():
        try:
            without = build([*held, rule])
        except BurnishError as error:
            yield Contribution(rule, rewrites, 0, note=f"cannot be done without: {error}")
            continue
        nodes = ModelStats.of(without).nodes
        if skeleton(without) == same:
            yield Contribution(rule, rewrites, nodes, note="same model")
            continue
        asked = f"the model with {rule} for that without"
        found = ask(
            decisions,
            without,
            whole,
            asked,
            rule=rule,
            operator=rule,
            confirm=True,
            longest=_LONGEST,
        )
        yield Contribution(rule, rewrites, nodes, found)


def ablate(
    job: Job, loaded: Loaded, instruments: Sequence[Instrument] = ()
) -> tuple[Decision, Iterator[Contribution]]:
    """Build a model; return its speed-up over the original, and what each of its rules brings.

    Args:
        job: What to build.
        loaded: The model, which is left as it is.
        instruments: What watches over the build; names that one holds back, all builds do.

    Raises:
        InputError: the model does not fit what is asked for.
        VerificationError: the model built computes something else.
    """
    built = job.build(dataclasses.replace(loaded, model=loaded.model.clone()), instruments)
    build = functools.partial(_without, job, loaded.model, built, instruments)
    found = contributions(built.model, build, job.fired(built), built.decisions)
    return _speed(built.decisions, loaded.model, built.model), found


def fast_enough(
    job: Job, loaded: Loaded, built: Built, instruments: Sequence[Instrument], floor: float
) -> Built:
    """Return a build again, without the rules that make the model too slow.

    The rule that costs most goes first; then what those bring that cost, too, is asked again.

    Args:
        job: What was built.
        loaded: The model before it, which is left as it is.
        built: The model after it.
        instruments: What watched over it.
        floor: Least speed-up over the original allowed. It is missed if the whole confidence
            interval lies below it, by more than timing can tell.

    Raises:
        BudgetError: it is missed, and no rule is at fault.
        InputError: nothing can be timed.
        VerificationError: the model without those rules computes something else.
    """
    # What rules need of lossy passes, and these of them, is no matter of speed alone.
    lossless = all(item.lossless for item in job.pipeline.passes)
    rules = job.fired(built) if lossless else {}
    build = functools.partial(_without, job, loaded.model, built, instruments)
    held = _held_back(
        loaded.model, built.model, build, rules, built.decisions, floor, built.ctx.progress
    )
    if not held:
        return built
    again = dataclasses.replace(loaded, model=loaded.model.clone())
    found = job.build(again, [*instruments, Disable(held)], built.decisions)
    found.ctx.warn(f"slower than the original with all rules: built without {', '.join(held)}")
    return found


def _without(
    job: Job, model: ir.Model, built: Built, instruments: Sequence[Instrument], held: Sequence[str]
) -> ir.Model:
    return job.without(held, model, built.decisions, instruments)


def _held_back(
    original: ir.Model,
    whole: ir.Model,
    build: Build,
    rules: Mapping[str, int],
    decisions: Decisions,
    floor: float,
    progress: Progress,
) -> tuple[str, ...]:
    """Return the rules without which a model is fast enough."""
    held: tuple[str, ...] = ()
    while True:
        speed = _speed(decisions, original, whole)
        if speed.ratio is None:
            raise InputError(f"the speed cannot be checked: {speed.note}")
        if speed.high is None or speed.high >= floor * (1 - RESOLUTION):
            return held
        tried = contributions(whole, build, rules, decisions, held)
        costly = [item for item in progress(tried, len(rules), "ablation") if item.costs]
        if not costly:
            without = f" without {', '.join(held)}" if held else ""
            raise BudgetError(
                f"the model{without} has {speed.ratio:.2f} of the original's speed; "
                f"at least {floor:g} is asked for",
                hint="`burnish ablate` shows what each rule brings",
            )
        held += (min(costly, key=lambda item: item.speedup).rule,)
        rules = {item.rule: item.rewrites for item in costly if item.rule not in held}
        whole = build(held)


def _speed(decisions: Decisions, original: ir.Model, whole: ir.Model) -> Decision:
    return _ask(decisions, original, whole, "the model for the original", "speed")


def _ask(
    decisions: Decisions, before: ir.Model, after: ir.Model, question: str, rule: str
) -> Decision:
    return ask(
        decisions,
        before,
        after,
        question,
        rule=rule,
        operator=rule,  # of which no table of preferences speaks: measured, or not known
        confirm=True,
        longest=_LONGEST,
    )
