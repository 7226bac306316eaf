# SPDX-License-Identifier: Apache-2.0
"""What each rule brings to the whole model: it is built again without the rule, and both are timed.

A rewrite that pays where it is done may cost elsewhere: decisions, which time regions alone, do not
see that. An ablation does, and names the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from burnish.backends.measure import RESOLUTION
from burnish.errors import BudgetError, BurnishError, InputError
from burnish.passes.build import Built, Job
from burnish.passes.decide import Decision
from burnish.passes.instrument import Disable, Instrument
from burnish.passes.report import ModelStats
from burnish.passes.whole import ask, skeleton

if TYPE_CHECKING:
    from burnish.frontends import Loaded

_LONGEST = 30.0  # seconds for one comparison
_WHOLE = "the model for the original"


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


@dataclass(frozen=True)
class Ablation:
    """A build, and builds of the same model with rules left out.

    Attributes:
        job: What is built.
        loaded: The model before it, which is left as it is.
        built: The model after it, and what was decided for it.
        instruments: What watched over it; names that one holds back, all builds do.
    """

    job: Job
    loaded: Loaded
    built: Built
    instruments: Sequence[Instrument] = ()

    @staticmethod
    def of(job: Job, loaded: Loaded, instruments: Sequence[Instrument] = ()) -> Ablation:
        """Build a model.

        Raises:
            InputError: the model does not fit what is asked for.
            VerificationError: the model built computes something else.
        """
        copy = dataclasses.replace(loaded, model=loaded.model.clone())
        return Ablation(job, loaded, job.build(copy, instruments), instruments)

    def speed(self, held: Sequence[str] = ()) -> Decision:
        """Time the model without rules of these names against the original."""
        return self._ask(self.loaded.model, self._without(held), _WHOLE, "speed")

    def contributions(
        self, rules: Mapping[str, int] | None = None, held: Sequence[str] = ()
    ) -> Iterator[Contribution]:
        """Yield what each rule brings.

        Args:
            rules: Rule -> rewrites; all that lossless passes did, by default.
            held: Rules that are held back in any case.
        """
        whole = self._without(held)
        same = skeleton(whole)
        for rule, rewrites in (self.job.fired(self.built) if rules is None else rules).items():
            try:
                without = self._without([*held, rule])
            except BurnishError as error:
                yield Contribution(rule, rewrites, 0, note=f"cannot be done without: {error}")
                continue
            nodes = ModelStats.of(without).nodes
            if skeleton(without) == same:
                yield Contribution(rule, rewrites, nodes, note="same model")
                continue
            question = f"the model with {rule} for that without"
            found = self._ask(without, whole, question, rule)
            yield Contribution(rule, rewrites, nodes, found)

    def held_back(self, floor: float) -> tuple[str, ...]:
        """Return the rules without which the model is fast enough.

        The rule that costs most goes first; then what those bring that cost, too, is asked again.

        Args:
            floor: Least speed-up over the original allowed. It is missed if the whole confidence
                interval lies below it, by more than timing can tell.

        Raises:
            BudgetError: it is missed, and no rule is at fault.
            InputError: nothing can be timed.
        """
        held: tuple[str, ...] = ()
        # What rules need of lossy passes, and these of them, is no matter of speed alone.
        lossless = all(item.lossless for item in self.job.pipeline.passes)
        rules = self.job.fired(self.built) if lossless else {}
        while True:
            speed = self.speed(held)
            if speed.ratio is None:
                raise InputError(f"the speed cannot be checked: {speed.note}")
            if speed.high is None or speed.high >= floor * (1 - RESOLUTION):
                return held
            tried = self.built.ctx.progress(self.contributions(rules, held), len(rules), "ablation")
            costly = [item for item in tried if item.costs]
            if not costly:
                without = f" without {', '.join(held)}" if held else ""
                raise BudgetError(
                    f"the model{without} has {speed.ratio:.2f} of the original's speed; "
                    f"at least {floor:g} is asked for",
                    hint="`burnish ablate` shows what each rule brings",
                )
            held += (min(costly, key=lambda item: item.speedup).rule,)
            rules = {item.rule: item.rewrites for item in costly if item.rule not in held}

    def _without(self, held: Sequence[str]) -> ir.Model:
        if not held:
            return self.built.model
        return self.job.without(held, self.loaded.model, self.built.decisions, self.instruments)

    def _ask(self, before: ir.Model, after: ir.Model, question: str, rule: str) -> Decision:
        return ask(
            self.built.decisions,
            before,
            after,
            question,
            rule=rule,
            operator=rule,  # of which no table of preferences speaks: measured, or not known
            confirm=True,
            longest=_LONGEST,
        )


def fast_enough(ablation: Ablation, floor: float) -> Built:
    """Return a build, again without the rules that make the model too slow, if some do.

    Args:
        ablation: The build.
        floor: Least speed-up over the original allowed; see `Ablation.held_back`.

    Raises:
        BudgetError: it is missed, and no rule is at fault.
        InputError: nothing can be timed.
        VerificationError: the model without those rules computes something else.
    """
    held, built = ablation.held_back(floor), ablation.built
    if not held:
        return built
    again = dataclasses.replace(ablation.loaded, model=ablation.loaded.model.clone())
    watching = [*ablation.instruments, Disable(held)]
    found = ablation.job.build(again, watching, built.decisions)
    found.ctx.warn(f"slower than the original with all rules: built without {', '.join(held)}")
    return found
