# SPDX-License-Identifier: Apache-2.0
"""The search for what stays float: by whole-model time, then by accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from burnish.passes.decide import Decision
from burnish.passes.quant.search.judge import Judge
from burnish.passes.quant.search.sensitivity import fewest_float, groups
from burnish.passes.quant.search.trials import Trials
from burnish.passes.quant.weighted import SLOWER
from burnish.passes.whole import ask, skeleton

RULE = "stay-float"
INACCURATE = "int8 costs more accuracy than max_drop allows"

_RESIDUAL_SUMS = "int8 for residual sums"
_MOST_KINDS = 16
_MOST_BEGINNINGS = 3


@dataclass
class Search:
    """Looks for the regions that stay float.

    Attributes:
        kept: Number of an operator -> why it stays float; always good to deliver.
        sensitivity: Error of the outputs with a group of regions alone in int8.
    """

    trials: Trials
    judge: Judge | None
    kept: dict[int, str] = field(default_factory=dict)
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    done: bool = True

    @property
    def all_float(self) -> bool:
        """Whether nothing is left to be int8."""
        return self.kept.keys() >= set(self.trials.regions)

    # --- by time ---

    def by_time(self) -> None:
        """Leave float what makes the model slower as int8; all of it if the model gets slower."""
        self.trials.try_residual(
            lambda before, after: _is_faster(self._decide(_RESIDUAL_SUMS, before, after))
        )
        kinds: dict[str, list[int]] = {}
        for index in (*self.trials.regions, *self.trials.between):
            kinds.setdefault(self.trials.kind(index), []).append(index)
        order = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:_MOST_KINDS]
        if len(order) > 1:
            for kind in self.trials.ctx.progress(order, len(order), "timing"):
                without = {**self.kept, **dict.fromkeys(kinds[kind], SLOWER)}
                count = f"{len(kinds[kind])} {kind}"
                decision = self._ask(f"int8 for {count}", without)
                useless = (decision.ratio or 1) < 1 and self.trials.is_small(kinds[kind][0])
                if decision.chosen == "original" or useless:
                    self.kept = without
            self._reconsider({kind: kinds[kind] for kind in order})
            self._begin_in_float()
        self.unless_slower()

    def _reconsider(self, kinds: Mapping[str, Collection[int]]) -> None:
        """Ask again about kinds that stay float, now that those asked about later are decided."""
        for kind, members in kinds.items():
            if not self.kept.keys() >= set(members):
                continue
            fewer = {index: why for index, why in self.kept.items() if index not in members}
            before, after = self.trials.quantized(self.kept), self.trials.quantized(fewer)
            if skeleton(before) == skeleton(after):
                continue
            question = f"int8 for {len(members)} {kind} after all"
            if _is_faster(self._decide(question, before, after)):
                self.kept = fewer

    def _begin_in_float(self) -> None:
        """Leave the beginning float while that is faster: large maps of few channels gain least."""
        for piece in itertools.islice(self.trials.beginnings(), _MOST_BEGINNINGS):
            without = {**self.kept, **dict.fromkeys(piece, SLOWER)}
            if len(without) == len(self.kept) or without.keys() >= set(self.trials.regions):
                continue
            decision = self._ask(f"int8 for the first {len(piece)} operators", without)
            slower = (decision.high or 1) < 1  # there is hardly any size to gain here
            if decision.chosen != "original" and not slower:
                return
            self.kept = without

    def unless_slower(self) -> None:
        """Leave everything float if the model as it is now is slower than in float."""
        if self.all_float:
            return
        everything = dict.fromkeys(self.trials.regions, SLOWER)
        decision = self._ask("int8 for the model", everything)
        if decision.chosen == "original":
            self.kept = everything
            self.trials.ctx.warn(
                f"the int8 model is slower than the float one ({decision.ratio or 1:.2f} of its "
                "speed): all of it stays float"
            )

    def _ask(self, question: str, without: Mapping[int, str]) -> Decision:
        """Ask whether the model as it is now is as fast as with other operators left float."""
        whole = without.keys() >= set(self.trials.regions)
        before = self.trials.model if whole else self.trials.quantized(without)
        return self._decide(question, before, self.trials.quantized(self.kept))

    def _decide(self, question: str, before: ir.Model, after: ir.Model) -> Decision:
        decisions = self.trials.ctx.decisions
        assert decisions is not None
        return ask(decisions, before, after, question, rule="mixed-precision", operator="int8")

    # --- by accuracy ---

    def by_accuracy(self, max_drop: float, evaluations: int) -> None:
        """Leave float the fewest of the most sensitive regions that keep the drop within bounds."""
        assert self.judge is not None
        judge, trials = self.judge, self.trials
        by_time, everything = self.kept, dict.fromkeys(trials.regions, INACCURATE)
        self.kept = everything  # until something better is known to be good enough
        before = judge.score(trials.model)
        self.scores = {"measure": judge.measure, "max_drop": max_drop, "before": before}

        def good(kept: Mapping[int, str]) -> bool:
            model = trials.quantized(kept)
            after = judge.score(model)
            if before - after > max_drop * abs(before):
                self.scores.setdefault("all_int8", after)
                return False
            self.kept = dict(kept)
            found = judge.likeness(model)
            self.scores |= {"after": after, "likeness": None if found is None else asdict(found)}
            return True

        if good(by_time):
            return
        rest = [index for index in trials.regions if index not in by_time]
        steps = len(rest).bit_length() + 1
        pieces = [[rest[i] for i in piece] for piece in groups(len(rest), evaluations - steps)]
        ranked: list[tuple[float, list[int]]] = []
        for piece in trials.ctx.progress(pieces, len(pieces), "sensitivity"):
            alone = trials.quantized([i for i in trials.regions if i not in piece])
            likeness = judge.likeness(alone)
            error = before - judge.score(alone) if likeness is None else likeness.error
            ranked.append((error, piece))
            names = [trials.describe(index) for index in piece]
            self.sensitivity.append({"regions": names, "error": error})
        ranked.sort(key=lambda item: -item[0])

        def passes(count: int) -> bool:
            sensitive = [index for _, piece in ranked[:count] for index in piece]
            return good({**by_time, **dict.fromkeys(sensitive, INACCURATE)})

        fewest_float(len(ranked), passes, steps)
        kept = len(self.kept.keys() - by_time.keys())
        trials.ctx.warn(
            f"{kept} of {len(rest)} operators stay float to lose at most {max_drop:.2%} of "
            f"{judge.measure}"
            if kept < len(rest)
            else f"nothing can be int8 at a loss of at most {max_drop:.2%} of {judge.measure}: "
            "all of the model stays float"
        )

    # --- the end ---

    def interrupt(self) -> None:
        """Say what is delivered after an interruption."""
        if self.judge is not None and not self.scores:  # accuracy was not looked at yet
            self.kept = dict.fromkeys(self.trials.regions, "interrupted before it was judged")
        self.done = False
        most = len(self.trials.regions)
        count = len(set(self.trials.regions) - self.kept.keys())
        self.trials.ctx.warn(
            f"interrupted: the best found so far is kept ({count} of {most} operators int8)"
        )

    def summary(self) -> dict[str, Any]:
        """Return what was found, as plain data."""
        wide = self.trials.ctx.target.int8_accumulator_bits > 16
        kept = {self.trials.describe(index): why for index, why in sorted(self.kept.items())}
        return {
            "complete": self.done,
            "int8": len(set(self.trials.regions) - self.kept.keys()),
            "float": kept,
            "scores": self.scores,
            "sensitivity": self.sensitivity,
            "residual_sums": "int8" if self.trials.residual else "float",
            "holds_on": "machines that add int8 products in 32 bits (VNNI, AMX, Arm)"
            if wide
            else "all machines: weights keep to 7 bits",
        }


def _is_faster(decision: Decision) -> bool:
    """Whether a decision was for what was done, and not for want of anything better."""
    return decision.chosen == "rewritten" and (decision.low or 0) > 1
