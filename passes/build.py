# SPDX-License-Identifier: Apache-2.0
"""One build: a pipeline run on a model, watched over; and builds again without some rules."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes import remarks
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.decide import Decisions
from burnish.passes.explain import Explain
from burnish.passes.guard import Guard, Level
from burnish.passes.instrument import Disable, Instrument
from burnish.passes.origins import Origins
from burnish.passes.pipeline import Pipeline
from burnish.passes.report import ModelStats

if TYPE_CHECKING:
    from burnish.backends.census import Census
    from burnish.backends.target import Target
    from burnish.frontends import Loaded

Progress = Callable[[Iterable[Any], int | None, str], Iterable[Any]]
"""Shows progress of long work: (items, total, label) -> items."""


@dataclass(frozen=True)
class Built:
    """A model that a pipeline gave, and what watched over it.

    Attributes:
        model: The model after all passes.
        ctx: What the passes reported.
        guard: What was checked.
        decisions: What was measured.
        before: Size of the model before.
        counts: What the runtime executed before, where asked for.
    """

    model: ir.Model
    ctx: PassContext
    guard: Guard
    decisions: Decisions
    before: ModelStats
    counts: Census | None


@dataclass(frozen=True)
class Job:
    """What stays the same from one build of a model to the next; `burnish.optimize` explains it."""

    pipeline: Pipeline
    target: Target
    samples: CalibrationSource | None
    _: KW_ONLY
    verify: Level = "end"
    max_error: float | None = None
    seed: int = 0
    strict: bool = False
    measure: bool = True
    replay: str | os.PathLike[str] | None = None
    explain: str | None = None
    count_executed: bool = False
    progress: Progress | None = None

    def build(
        self,
        loaded: Loaded,
        instruments: Sequence[Instrument] = (),
        decisions: Decisions | None = None,
    ) -> Built:
        """Run the pipeline on a model, which it edits, under the guard.

        Args:
            loaded: The model, and what was noted on import.
            instruments: Further watchers.
            decisions: Of an earlier build of the same model, which hold here too.

        Raises:
            InputError: the model does not fit what is asked for.
            VerificationError: the result is malformed or computes something else.
        """
        guard = Guard(self.verify, self.samples, self.seed)
        ctx = self._context(_watchers(instruments, guard, loaded.model, self.target))
        ctx.warnings += loaded.notes
        ctx.explain = None if self.explain is None else Explain(self.explain)
        if decisions is None:
            decisions = Decisions.start(loaded.model, ctx, measure=self.measure, replay=self.replay)
        else:
            decisions = dataclasses.replace(decisions, warn=ctx.warn, settle=ctx.settle)
        ctx.decisions = decisions
        before = ModelStats.of(loaded.model)
        counts = _census(loaded.model, self.target, ctx) if self.count_executed else None
        guard.start(loaded.model)
        if self.max_error is not None and (guard.level == "off" or guard.unchecked):
            why = guard.unchecked or "verification is off"
            raise InputError(f"the error budget cannot be checked: {why}")
        model = self.pipeline.run(loaded.model, ctx)
        guard.finish(model)
        _warn(self.pipeline, ctx, guard)
        return Built(model, ctx, guard, decisions, before, counts)

    def without(
        self,
        held: Sequence[str],
        model: ir.Model,
        decisions: Decisions,
        instruments: Sequence[Instrument] = (),
    ) -> ir.Model:
        """Return what the pipeline makes of a copy of a model with some rules held back.

        Nothing is checked or reported.
        """
        also = [item for item in instruments if isinstance(item, Disable)]
        ctx = self._context([*also, Disable(tuple(held))])
        ctx.decisions = decisions
        return self.pipeline.run(model.clone(), ctx)

    def fired(self, built: Built) -> dict[str, int]:
        """Return rule -> rewrites, of rules that only lossless passes have."""
        fired, lossy = Counter[str](), set[str]()
        for item, report in zip(self.pipeline.passes, built.ctx.reports, strict=True):
            if item.lossless:
                fired.update(report.fired())
            else:
                lossy |= report.fired().keys()
        return {rule: count for rule, count in fired.items() if rule not in lossy}

    def _context(self, instruments: Sequence[Instrument]) -> PassContext:
        ctx = PassContext(self.target, self.samples, self.seed, instruments, strict=self.strict)
        if self.progress is not None:
            ctx.progress = self.progress
        return ctx


def _watchers(
    instruments: Sequence[Instrument], guard: Guard, model: ir.Model, target: Target
) -> list[Instrument]:
    watchers = [*instruments, guard]
    if target.provider != "CPUExecutionProvider":
        watchers.append(Origins(model))  # its compiler refuses nodes: this tells who made them
    return watchers


def _warn(pipeline: Pipeline, ctx: PassContext, guard: Guard) -> None:
    """Warn of what could not be told, and of what lossy passes did."""
    for line in guard.remarks():
        ctx.warn(line)
    lossy = {str(item) for item in pipeline.passes if not item.lossless}
    random, warned = ctx.calibration is None, bool(ctx.warnings)
    for line in remarks.of_lossy(
        lossy,
        ctx.reports,
        guard.final_error,
        random=random,
        warned=warned,
        undefined=guard.undefined,
    ):
        ctx.warn(line)


def _census(model: ir.Model, target: Target, ctx: PassContext) -> Census | None:
    from burnish.backends.census import census

    try:
        return census(model, target)
    except InputError as error:
        ctx.warn(f"what the runtime executes was not counted: {error}")
        return None
