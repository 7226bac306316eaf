# SPDX-License-Identifier: Apache-2.0
"""What a pass is given beside the model: passed explicitly, never ambient."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.instrument import Event, Instrument
from burnish.passes.report import PassReport

if TYPE_CHECKING:
    from burnish.backends.target import Target
    from burnish.passes.base import Pass
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.decide import Decisions
    from burnish.passes.explain import Explain

T = TypeVar("T")
Place = ir.Node | ir.Value | str


@dataclass
class PassScope:
    """A pass being run; falsy when an instrument holds it back."""

    model: ir.Model
    report: PassReport
    event: Event

    def __bool__(self) -> bool:
        return not self.report.skipped


@dataclass(frozen=True)
class RewriteScope:
    """A rewrite about to be done; falsy when an instrument holds it back."""

    event: Event
    allowed: bool

    def __bool__(self) -> bool:
        return self.allowed


def _no_progress(items: Iterable[T], total: int | None, label: str) -> Iterable[T]:
    return items


@dataclass
class PassContext:
    """Everything a pass may ask for.

    Attributes:
        target: What the backend can run, and run fast.
        calibration: Sample inputs, or None.
        seed: Seed of every random choice.
        instruments: Watchers of passes and rewrites.
        progress: Wraps an iterable in a progress bar: (items, total, label) -> items.
        warnings: One line each, for the report.
        reports: One entry for each pass run at the top of the pipeline.
        decisions: Answers whether rewrites that may lose pay; None takes them without asking.
        explain: Collects where rules nearly applied; None unless asked for.
        strict: Whether a rule that raises ends the build; else it is skipped there, and reported.
    """

    target: Target
    calibration: CalibrationSource | None = None
    seed: int = 0
    instruments: Sequence[Instrument] = ()
    progress: Callable[[Iterable[Any], int | None, str], Iterable[Any]] = _no_progress
    warnings: list[str] = field(default_factory=list)
    reports: list[PassReport] = field(default_factory=list)
    decisions: Decisions | None = None
    explain: Explain | None = None
    strict: bool = True
    _stack: list[PassScope] = field(default_factory=list, repr=False)
    _passes: int = field(default=0, repr=False)
    _rewrites: int = field(default=0, repr=False)
    _edits: int = field(default=0, repr=False)
    _faulty: set[str] = field(default_factory=set, repr=False)
    _analyses: dict[tuple[Any, int], tuple[int, Any, Any]] = field(default_factory=dict, repr=False)

    @contextlib.contextmanager
    def running(self, item: Pass, model: ir.Model) -> Iterator[PassScope]:
        """Open the scope of one pass; `Pass.run` calls it."""
        self._passes += 1
        event = Event("pass", item.name, self._passes, str(item), item.name, item.lossless)
        scope = PassScope(model, PassReport(str(item)), event)
        siblings = self._stack[-1].report.members if self._stack else self.reports
        siblings.append(scope.report)
        if not all(instrument.should_run(event) for instrument in self.instruments):
            scope.report.skipped = True
            yield scope
            return
        self._stack.append(scope)
        try:
            yield from self._watched(event, scope)
        finally:
            self._stack.pop()

    def _watched(self, event: Event, scope: PassScope) -> Iterator[PassScope]:
        for instrument in self.instruments:
            instrument.before(event, scope.model)
        try:
            yield scope
        except BaseException as error:
            for instrument in self.instruments:
                instrument.failed(event, scope.model, error)
            raise
        for instrument in self.instruments:
            instrument.after(event, scope.model)

    @contextlib.contextmanager
    def rewrite(self, rule: str, where: Place) -> Iterator[RewriteScope]:
        """Open the scope of one rewrite: the one gate every change to a model goes through.

            with ctx.rewrite("fold", node) as go:
                if go:
                    ...  # edit

        The body must edit exactly when the scope is true.
        """
        scope = self._stack[-1]
        self._rewrites += 1
        event = Event("rewrite", rule, self._rewrites, describe(where), scope.event.name)
        entry = scope.report.rule(rule)
        if not all(instrument.should_run(event) for instrument in self.instruments):
            entry.skipped += 1
            yield RewriteScope(event, False)
            return
        for instrument in self.instruments:
            instrument.before(event, scope.model)
        started = time.perf_counter()
        try:
            yield RewriteScope(event, True)
        except BaseException as error:
            for instrument in self.instruments:
                instrument.failed(event, scope.model, error)
            raise
        entry.rewrites += 1
        entry.seconds += time.perf_counter() - started
        self._edits += 1
        for instrument in self.instruments:
            instrument.after(event, scope.model)

    def allows(self, rule: str, where: Place) -> bool:
        """Whether `rewrite` would let the next rewrite be this one; asked before costly checks."""
        of = self._stack[-1].event.name
        event = Event("rewrite", rule, self._rewrites + 1, describe(where), of)
        return all(instrument.should_run(event) for instrument in self.instruments)

    def refuse(
        self,
        rule: str,
        where: Place,
        reason: str,
        *,
        repair: str = "",
        at: ir.Node | None = None,
    ) -> None:
        """Record that a rule met a place it does not apply to, and why.

        Args:
            rule: Name of the rule.
            where: The place it was tried at.
            reason: The constraint that failed: short and stable, since reasons are counted.
            repair: What would clear it, where the reason does not say.
            at: The node that failed it, if not `where`.
        """
        refusals = self._stack[-1].report.rule(rule).refusals
        refusals[reason] = refusals.get(reason, 0) + 1
        if self.explain is not None:
            self._explain(self.explain, rule, where, reason, repair, at)

    def _explain(
        self,
        explain: Explain,
        rule: str,
        where: Place,
        reason: str,
        repair: str,
        at: ir.Node | None,
    ) -> None:
        from burnish.passes.explain import NearMiss, repair_for

        op_type = where.op_type if isinstance(where, ir.Node) else ""
        inner = describe(at) if at is not None and at is not where else ""
        repair = repair or repair_for(reason)
        explain.add(NearMiss(rule, describe(where), op_type, inner, reason, repair))

    def goes_on_after(self, error: Exception, rule: str, where: Place) -> bool:
        """Record that a rule raised before it changed anything.

        Returns:
            Whether to go on without it; otherwise the caller lets the exception pass. Errors that
            are no fault of the rule always pass.
        """
        scope = self._stack[-1]
        place = describe(where)
        event = Event("rewrite", rule, self._rewrites + 1, place, scope.event.name)
        if self.strict or isinstance(error, BurnishError | MemoryError):
            for instrument in self.instruments:
                instrument.failed(event, scope.model, error)
            return False
        for instrument in self.instruments:
            instrument.skipped(event, scope.model, error)
        if rule not in self._faulty:  # one line a rule; the report counts the places
            self._faulty.add(rule)
            kind, text = type(error).__name__, " ".join(str(error).split())
            self.warn(f"rule {rule} raised {kind} at {place!r} and was skipped there: {text}")
        return True

    @property
    def details(self) -> dict[str, Any]:
        """What the running pass has to say beside its rewrites; goes into its report."""
        return self._stack[-1].report.details

    def settle(self) -> None:
        """Wait for what instruments do beside the passes; something is about to be timed."""
        for instrument in self.instruments:
            instrument.settle()

    def warn(self, line: str) -> None:
        """Put one line in front of the user, once."""
        if line not in self.warnings:
            self.warnings.append(line)

    def analysis(self, compute: Callable[[Any], T], subject: Any) -> T:
        """Return `compute(subject)`, cached until the next rewrite."""
        key = (compute, id(subject))
        found = self._analyses.get(key)
        # The subject is kept beside its result so that its id cannot be reused meanwhile.
        if found is None or found[0] != self._edits or found[1] is not subject:
            found = (self._edits, subject, compute(subject))
            self._analyses[key] = found
        result: T = found[2]
        return result


def describe(where: Place) -> str:
    """Return the name of a node or value; of a nameless node, that of its first output."""
    if isinstance(where, str):
        return where
    if where.name or isinstance(where, ir.Value):
        return where.name or "?"
    return next((value.name for value in where.outputs if value.name), where.op_type)
