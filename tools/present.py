# SPDX-License-Identifier: Apache-2.0
"""How the command line shows things: tables and progress bars, by rich."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.table import Table

    from burnish.backends.census import Census
    from burnish.passes.decide import Decision
    from burnish.passes.explain import NearMiss
    from burnish.passes.pipeline import Pipeline
    from burnish.passes.report import PassReport, Report

T = TypeVar("T")


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table; columns after the first are right-aligned."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    made.min_width = len(title)  # a title does not wrap at the width of its table
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show(*things: object) -> None:
    """Print to standard output, styled where it is a terminal; elsewhere a line stays a line."""
    from rich.console import Console

    console = Console(highlight=False)
    for thing in things:
        whole = isinstance(thing, str) and not console.is_terminal
        console.print(thing, markup=False, soft_wrap=whole)


def progress(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Wrap an iterable in a progress bar on standard error; none where that is no terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        items, total=total, description=label, console=Console(stderr=True), transient=True
    )


def size(count: float) -> str:
    """Return a number of bytes for people: `12.3 MB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


_DECISIONS_SHOWN = 8


def summary(report: Report, destination: Path, *, timing: bool) -> None:
    """Print what an optimization did."""
    before, after = report.before, report.after
    rows = [
        ("nodes", str(before.nodes), str(after.nodes), _ratio(after.nodes, before.nodes)),
        ("weights", size(before.bytes), size(after.bytes), _ratio(after.bytes, before.bytes)),
        ("opset", str(before.opset), str(after.opset), ""),
    ]
    show(table(report.input["source"], ("", "before", "after", "ratio"), rows))
    fired = Counter[str]()
    refused = Counter[str]()
    for item in report.passes:
        fired.update(item.fired())
        refused.update(refusal_counts(item))
    if fired:
        show("rewrites: " + ", ".join(f"{name} {count}" for name, count in _ordered(fired)))
    if refused:
        places = f"{_count(refused.total(), 'place')}, {_count(len(refused), 'reason')}"
        show(f"left alone: {places}; --explain shows them")
    for decision in report.decisions[:_DECISIONS_SHOWN]:
        show(decision_line(decision))
    if len(report.decisions) > _DECISIONS_SHOWN:
        show(f"and {len(report.decisions) - _DECISIONS_SHOWN} more decisions; --report has them")
    if timing:
        show(timing_table(report))
    if report.census is not None:
        show(census_table("fused operators", report.census))
    for check in report.verification.get("checks", ()):
        kind = "same within rounding" if check["lossless"] else "changed on purpose"
        if "amplified" in check:
            kind = f"rounding alone makes {check['amplified'] / 2:.1e} here"
        show(f"checked: relative error {check['error']:.2e} against the original ({kind})")
    for line in report.warnings:
        show(f"note: {line}")
    show(f"wrote {destination} in {report.seconds:.1f} s")


def decision_line(decision: Decision) -> str:
    """Return one line: what was asked, what was measured, and what was done."""
    at = f" at {decision.shapes[0]} {decision.dtype.lower()}" if decision.shapes else ""
    found = "" if decision.ratio is None else f" {decision.ratio:.2f}x"
    if decision.low is not None and decision.high is not None:
        found += f" ({decision.low:.2f} to {decision.high:.2f})"
    source = ", ".join(filter(None, (decision.source, decision.note)))
    places = _count(decision.places, "place")
    return (
        f"{decision.rule}: {decision.question}{at}:{found} {decision.chosen} in {places} ({source})"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _ratio(after: float, before: float) -> str:
    return f"{after / before:.2f}" if before else ""


def refusal_counts(report: PassReport) -> Counter[str]:
    """Return `rule: reason` -> places refused, of a pass and the passes it ran."""
    counts = Counter(
        {
            f"{name}: {reason}": count
            for name, entry in report.rules.items()
            for reason, count in entry.refusals.items()
        }
    )
    for member in report.members:
        counts.update(refusal_counts(member))
    return counts


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def census_table(title: str, found: Mapping[str, Census]) -> Table:
    """Return how many fused operators models hold and execute; a pair of columns for each."""
    sides = [side for item in found.values() for side in (item.stored, item.executed)]
    columns = ["operator"]
    for name in found:
        label = f"{name}\n" if len(found) > 1 else ""
        columns += [f"{label}stored", f"{label}executed"]
    kinds = sorted({kind for side in sides for kind in side.fused})
    rows = [(kind, *(str(side.ops.get(kind, "")) for side in sides)) for kind in kinds]
    rows.append(("all nodes", *(str(side.nodes) for side in sides)))
    return table(title, columns, rows)


def timing_table(report: Report) -> Table:
    """Return seconds by pass and, below each, by rule."""
    rows: list[tuple[str, str, str]] = []

    def add(item: PassReport, indent: int) -> None:
        pad = "  " * indent
        rows.append((f"{pad}{item.text}", f"{item.seconds:.3f}", str(item.rewrites)))
        for name, entry in item.rules.items():
            if entry.rewrites:
                rows.append((f"{pad}  - {name}", f"{entry.seconds:.3f}", str(entry.rewrites)))
        for member in item.members:
            add(member, indent + 1)

    for item in report.passes:
        add(item, 0)
    return table("timing", ("pass", "seconds", "rewrites"), rows)


_REASONS_SHOWN = 5


def near_misses(misses: Iterable[NearMiss], *, whole: bool) -> None:
    """Print near misses by rule: every place, or one for each of the most frequent reasons."""
    by_rule: dict[str, list[NearMiss]] = {}
    for miss in misses:
        by_rule.setdefault(miss.rule, []).append(miss)
    if not by_rule:
        show("no near misses")
    for rule, found in by_rule.items():
        by_reason: dict[str, list[NearMiss]] = {}
        for miss in found:
            by_reason.setdefault(miss.reason, []).append(miss)
        groups = sorted(by_reason.values(), key=len, reverse=True)
        shown = [[miss] for miss in found] if whole else groups[:_REASONS_SHOWN]
        rows = [_near_miss_row(places) for places in shown]
        rest = 0 if whole else len(groups) - len(shown)
        if rest:
            rows.append((f"and {_count(rest, 'more reason')}", f"--explain {rule} shows all", ""))
        made = table(
            f"near misses of {rule}: {len(found)}", ("where", "constraint", "repair"), rows
        )
        for column in made.columns:
            column.justify = "left"
        show(made)


def _near_miss_row(places: list[NearMiss]) -> tuple[str, str, str]:
    first = places[0]
    where = f"{first.node} ({first.op_type})" if first.op_type else first.node
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    reason = f"{first.reason}, at {first.at}" if first.at else first.reason
    return where + more, reason, first.repair


def dry_run(pipeline: Pipeline, model: str, target: str, calib: str | None) -> None:
    """Load and check everything, and print the pipeline as it would run."""
    from burnish import frontends
    from burnish.backends.target import Target
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.report import ModelStats

    on = Target.parse(target)
    loaded = frontends.load(model)
    if calib is not None:
        samples = CalibrationSource.open(calib, loaded.model.graph.inputs)
        show(f"calibration: {_count(len(samples), 'sample')}")
    stats = ModelStats.of(loaded.model)
    nodes = _count(stats.nodes, "node")
    show(f"{model}: {nodes}, {size(stats.bytes)}, opset {stats.opset}")
    features = ", ".join(sorted(on.isa))
    show(f"target: {on.name} ({features})" if features else f"target: {on.name}")
    rows = [(str(item), _first_line(item.__doc__)) for item in pipeline.expand().passes]
    made = table("pipeline", ("pass", "what it does"), rows)
    made.columns[1].justify = "left"
    show(made, f"as text: {pipeline.expand()}")
    for note in loaded.notes:
        show(f"note: {note}")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
