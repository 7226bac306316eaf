# SPDX-License-Identifier: Apache-2.0
"""Decisions: whether a rewrite that may lose on the target pays where it was about to be done.

Of most rewrites it is known that they do no harm. Those that write an operator which the target's
table of preferences speaks of, and those of rules that say so (`may_lose`), are timed: the region
they replace against what replaces it, in turns, with all of the runtime's own optimizations. What
is clearly slower is not done. Where the two cannot be told apart, or timing is impossible or not
wanted, the table decides.

Equal regions are one question, answered once a build and once a machine (`burnish.backends.answers`
keeps the answers). A report's decisions can be replayed; then nothing is measured.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from burnish.backends.preferences import find as find_preference
from burnish.errors import BurnishError, InputError
from burnish.passes.inputs import Sample
from burnish.passes.part import CannotMeasure
from burnish.passes.region import Pairs, Region, find

if TYPE_CHECKING:
    from burnish.backends.answers import Answer, Answers
    from burnish.backends.onnxruntime import TensorSpec
    from burnish.backends.target import Target
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.context import PassContext
    from burnish.passes.rule import Rule

Choice = Literal["rewritten", "original"]
Source = Literal["measured", "cached", "recorded", "replayed"]

SLOWER = "measured slower on this machine"
REPLAYED = "slower by the decisions replayed"

_THREADS = 1
_ROUNDS = 200
_SECONDS = 0.06  # for one question, unless that is too short for the fewest rounds
_FEWEST_ROUNDS = 8
_BUDGET = 1.0  # seconds for all questions of a build


@dataclass
class Decision:
    """What was decided for all places that ask the same.

    Attributes:
        key: Digest of the question; empty where the region cannot be run on its own.
        question: What replaces what.
        rule: The rule that asked first.
        operator: The operator written that may lose.
        shapes: Sizes of the values that enter, e.g. `1x32x384`.
        dtype: Their element type; of the first, where they differ.
        ratio: Seconds before over seconds after: above 1, the rewrite pays. None if unknown; that
            of the table where it was not measured.
        low: Lower end of the 95 % confidence interval of `ratio`.
        high: Upper end.
        chosen: "rewritten" or "original".
        source: Where the answer comes from: "measured" now, "cached" from an earlier build on this
            machine, the "recorded" table of preferences, or "replayed" from a file.
        hardware: The machine the ratio was measured on; empty if it was not measured.
        note: Why the table had to decide, where it had to.
        places: Number of places that asked.
    """

    key: str
    question: str
    rule: str
    operator: str
    shapes: list[str]
    dtype: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    chosen: Choice = "rewritten"
    source: Source = "recorded"
    hardware: str = ""
    note: str = ""
    places: int = 0

    @property
    def refusal(self) -> str | None:
        """The reason to refuse the rewrite, or None."""
        if self.chosen == "rewritten":
            return None
        return REPLAYED if self.source == "replayed" else self.note or SLOWER

    @property
    def repair(self) -> str:
        """What the user can do about a refusal."""
        if self.source in ("measured", "cached") and not self.note:
            return "--no-measure lets the recorded table decide"
        return ""


@dataclass(frozen=True)
class Replay:
    """Decisions of an earlier build.

    Attributes:
        path: The file they stand in.
        choices: Key -> decision.
    """

    path: Path
    choices: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def load(path: Path) -> Replay:
        """Read a report, or the list that stands in it under `decisions`.

        Raises:
            InputError: there is no such file, or it holds no decisions.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"decisions {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(
                f"decisions {path} is not JSON", hint="give what optimize --report wrote"
            ) from error
        entries = data.get("decisions") if isinstance(data, dict) else data
        if not isinstance(entries, list) or not all(map(_is_decision, entries)):
            raise InputError(f"{path} holds no decisions", hint="give what optimize --report wrote")
        return Replay(path, {entry["key"]: entry for entry in entries if entry["key"]})


def _is_decision(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and entry.get("chosen") in ("rewritten", "original")
        and all(isinstance(entry.get(n), int | float | None) for n in ("ratio", "low", "high"))
    )


@dataclass
class Decisions:
    """Answers questions during one build.

    Attributes:
        target: What is asked about.
        warn: Takes one line for the user.
        inputs: Name, type and shape of the model's inputs, before any pass.
        calibration: The first sample gives the sizes to measure with, instead of the usual ones.
        measure: Whether to time what is not known; otherwise the table of preferences decides.
        replay: Earlier decisions, which answer alone where they are given.
        budget: Seconds left for measuring.
        settle: Waits until nothing else runs in this process.
    """

    target: Target
    warn: Callable[[str], None]
    inputs: Sequence[TensorSpec] = ()
    calibration: CalibrationSource | None = None
    measure: bool = True
    replay: Replay | None = None
    budget: float = _BUDGET
    settle: Callable[[], None] = lambda: None
    _taken: dict[object, Decision] = field(default_factory=dict)
    _places: set[tuple[str, str]] = field(default_factory=set)

    @staticmethod
    def start(
        model: ir.Model,
        ctx: PassContext,
        *,
        measure: bool,
        replay: str | os.PathLike[str] | None = None,
    ) -> Decisions:
        """Begin a build.

        Args:
            model: As it is before any pass.
            ctx: Gives the target and calibration samples, and takes warnings.
            measure: Whether to time what is not known.
            replay: A report, whose decisions to take again.

        Raises:
            InputError: `replay` cannot be used.
        """
        from burnish.backends.feeds import input_specs

        earlier = None if replay is None else Replay.load(Path(replay))
        specs = input_specs(model)
        return Decisions(
            ctx.target, ctx.warn, specs, ctx.calibration, measure, earlier, settle=ctx.settle
        )

    @functools.cached_property
    def sample(self) -> Sample:
        """What inputs the model is measured for."""
        from burnish.backends.feeds import symbol_sizes

        feeds = {} if self.calibration is None else next(iter(self.calibration), {})
        sizes = {
            dim: feeds[spec.name].shape[axis]
            for spec in self.inputs
            if spec.name in feeds
            for axis, dim in enumerate(spec.shape)
            if isinstance(dim, str)
        }
        return Sample({**symbol_sizes(self.inputs, {}, typical=True), **sizes}, feeds)

    @functools.cached_property
    def answers(self) -> Answers:
        """What was measured before on this machine."""
        from burnish.backends.answers import Answers, Environment

        return Answers(Environment.of(self.target, _THREADS), self.warn)

    def all(self) -> list[Decision]:
        """Return the decisions taken, in the order in which they were asked for."""
        return list(self._taken.values())

    def decide(
        self,
        rule: str,
        where: str,
        operator: str,
        pairs: Pairs,
        made: Sequence[ir.Node],
        opset_imports: Mapping[str, int],
        rules: Sequence[Rule],
    ) -> Decision:
        """Decide on one rewrite, which is not spliced in yet.

        Args:
            rule: Name of the rule whose rewrite it is.
            where: Name of the place.
            operator: The operator in doubt, as the table of preferences names it.
            pairs: Old and new value for each output.
            made: The new nodes.
            opset_imports: Version of each domain.
            rules: What will be applied to the new nodes before it counts how fast they are.
        """
        dtype = next((old.dtype for old, _ in pairs if old.dtype is not None), None)
        region, why = None, ""
        try:
            region = find(pairs, made, self.sample, opset_imports)
        except CannotMeasure as error:
            why = str(error)
        identity = (rule, operator, dtype, why) if region is None else region.key
        if identity not in self._taken:
            asked = _asked(rule, operator, dtype, region)
            if region is None:
                self._taken[identity] = self._recorded(asked, dtype, f"not measured: {why}")
            else:
                grows = len(made) > len(region.removed)
                timed = functools.partial(self._measured, region, rules)
                self._taken[identity] = self._answered(asked, dtype, timed, grows=grows)
        decision = self._taken[identity]
        if (rule, where) not in self._places:
            self._places.add((rule, where))
            decision.places += 1
        return decision

    def ask(self, asked: Decision, timed: Callable[[], Answer]) -> Decision:
        """Decide on something that is no rewrite of a rule, such as a model as a whole.

        Args:
            asked: The question; its `key` says all that the answer depends on but the machine.
            timed: Takes the time; may raise `CannotMeasure`.
        """
        if asked.key not in self._taken:
            self._taken[asked.key] = self._answered(asked, None, timed)
        decision = self._taken[asked.key]
        decision.places += 1
        return decision

    def _answered(
        self,
        asked: Decision,
        dtype: ir.DataType | None,
        timed: Callable[[], Answer],
        *,
        grows: bool = False,
    ) -> Decision:
        if self.replay is not None:
            entry = self.replay.choices.get(asked.key)
            if entry is not None:
                return self._replayed(asked, entry)
            self.warn(f"{self.replay.path} leaves questions open; the recorded table answers them")
            return self._recorded(asked, dtype, "not measured: not among the decisions replayed")
        if not self.measure:
            return self._recorded(asked, dtype, "not measured: measuring is off")
        source: Source = "cached"
        answer = self.answers.get(asked.key)
        if answer is None:
            source = "measured"
            try:
                self._check_machine()
                self.settle()
                answer = timed()
            except CannotMeasure as error:
                return self._recorded(asked, dtype, f"not measured: {error}")
            if not answer.is_noise:  # the next build shall ask again
                self.answers.put(asked.key, answer, asked.question)
        hardware = self.answers.environment.hardware
        known = dataclasses.asdict(answer)
        found = dataclasses.replace(asked, **known, source=source, hardware=hardware)
        if answer.verdict == "slower":
            found.chosen = "original"
        elif answer.verdict == "same":
            found.note = "cannot be told apart"
            self._by_table(found, dtype)
            if grows and answer.ratio < 1 and found.chosen == "rewritten":
                found.chosen, found.note = "original", "no faster, and more nodes"
        return found

    def _replayed(self, asked: Decision, entry: Mapping[str, Any]) -> Decision:
        assert self.replay is not None
        there, here = entry.get("hardware", ""), self.answers.environment.hardware
        if there and there != here:
            self.warn(f"the decisions of {self.replay.path} were taken on {there}; this is {here}")
        return dataclasses.replace(
            asked,
            ratio=entry.get("ratio"),
            low=entry.get("low"),
            high=entry.get("high"),
            chosen=entry["chosen"],
            source="replayed",
            hardware=str(there),
            note=str(entry.get("note", "")),
        )

    def _recorded(self, asked: Decision, dtype: ir.DataType | None, why: str) -> Decision:
        found = dataclasses.replace(asked, note=why)
        self._by_table(found, dtype)
        known = find_preference(
            self.target.preferences, asked.operator, None if dtype is None else dtype.name
        )
        found.ratio = None if known is None else known.ratio
        return found

    def _by_table(self, decision: Decision, dtype: ir.DataType | None) -> None:
        """Decide as the table of preferences says; what it does not speak of is taken."""
        objection = self.target.objection_to(decision.operator, dtype)
        if objection is not None:
            decision.chosen, decision.note = "original", objection

    def _check_machine(self) -> None:
        from burnish.backends.isa import detect_isa

        if self.target.provider != "CPUExecutionProvider" or self.target.isa != detect_isa():
            raise CannotMeasure("the target is another machine")

    def _measured(self, region: Region, rules: Sequence[Rule]) -> Answer:
        """Time both sides of a region.

        Raises:
            CannotMeasure: one does not run, or there is no time left.
        """
        if self.budget <= 0:
            raise CannotMeasure("the time for measuring is used up")
        started = time.perf_counter()
        try:
            answer = _timed(region, rules, self.target, self.budget)
            if answer.is_noise:
                answer = _timed(region, rules, self.target, self.budget)
            # To leave out what pays is the costlier mistake: other sessions must say so too.
            if answer.verdict == "slower":
                answer = answer.widened(_timed(region, rules, self.target, self.budget))
            return answer
        except BurnishError as error:
            raise CannotMeasure(f"it does not run on its own: {error}") from error
        finally:
            self.budget -= time.perf_counter() - started


def _asked(rule: str, operator: str, dtype: ir.DataType | None, region: Region | None) -> Decision:
    """Return a question, as a decision for the rewrite."""
    return Decision(
        key="" if region is None else region.key,
        question=operator if region is None else f"{operator} for {_counted(region.removed)}",
        rule=rule,
        operator=operator,
        shapes=[] if region is None else region.shapes,
        dtype="" if dtype is None else dtype.name,
    )


def _counted(names: Sequence[str]) -> str:
    counts = Counter(names)
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())


def _timed(region: Region, rules: Sequence[Rule], target: Target, budget: float) -> Answer:
    """Time both sides in turns, as they will be: cleaned up, and what else rules make of them.

    Raises:
        CannotMeasure: it takes too long.
        BurnishError: one does not run.
    """
    from burnish.backends.answers import Answer
    from burnish.backends.measure import compare
    from burnish.backends.onnxruntime import session

    before, after = region.models()
    _settle(before, (), target)
    _settle(after, rules, target)
    feeds = region.feeds()
    with (
        session(before, threads=_THREADS, optimize="all") as old,
        session(after, threads=_THREADS, optimize="all") as new,
    ):
        sides = {"before": old, "after": new}
        own = {
            name: {spec.name: feeds[spec.name] for spec in side.inputs}
            for name, side in sides.items()
        }
        compare(sides, own, repeats=1, warmup=1)  # what is done on the first runs alone
        started = time.perf_counter()
        compare(sides, own, repeats=1, warmup=0)
        fewest = _FEWEST_ROUNDS * (time.perf_counter() - started)
        if fewest > budget:
            raise CannotMeasure("it takes too long")
        found = compare(sides, own, repeats=_ROUNDS, warmup=0, budget=max(_SECONDS, fewest))
    timing = found["after"]
    if math.isinf(timing.high):
        raise CannotMeasure("it takes too long")
    return Answer(timing.speedup, timing.low, timing.high)


def _settle(model: ir.Model, rules: Sequence[Rule], target: Target) -> None:
    from burnish.passes.cleanup import Cleanup
    from burnish.passes.context import PassContext
    from burnish.passes.rule import pass_of

    ctx = PassContext(target, strict=False)
    if rules:
        pass_of("settle", *rules)().run(model, ctx)
    Cleanup().run(model, ctx)
