# SPDX-License-Identifier: Apache-2.0
"""`optimize`: from a model to a transformed, checked model and a report."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from burnish import frontends
from burnish.backends.artifact.folder import Plan, write
from burnish.backends.census import Census, census, losses
from burnish.backends.onnxruntime import OnnxRuntime
from burnish.backends.target import Target
from burnish.errors import BudgetError, InputError
from burnish.passes.ablation import Ablation, fast_enough
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.build import Job, Progress
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.diagnosis import blaming_input
from burnish.passes.guard import Level
from burnish.passes.instrument import Instrument
from burnish.passes.options import options_of
from burnish.passes.pipeline import Pipeline
from burnish.passes.report import ModelStats, Report

DEFAULT_PASSES = "fuse"
_PACKAGES = ("burnish", "numpy", "onnx", "onnx-ir", "onnx-shape-inference", "onnxruntime")

Calibration = (
    CalibrationSource
    | str
    | os.PathLike[str]
    | Callable[[], Iterable[Mapping[str, np.ndarray]]]
    | Sequence[Mapping[str, np.ndarray]]
)


class Optimized(NamedTuple):
    """What `optimize` returns: unpacks as `model, report`."""

    model: ir.Model
    report: Report


def load(source: Any) -> ir.Model:
    """Load a model from whatever a frontend understands; see `burnish.frontends.load`."""
    return frontends.load(source).model


def optimize(
    source: Any,
    passes: str | Pass | Pipeline | Iterable[Pass | Pipeline | str] = DEFAULT_PASSES,
    *,
    output: str | os.PathLike[str] | None = None,
    artifact: str | os.PathLike[str] | Plan | None = None,
    target: str | Target = "cpu",
    calibration: Calibration | None = None,
    verify: Level = "end",
    max_error: float | None = None,
    max_drop: float | None = None,
    eval: str | None = None,
    min_speedup: float | None = None,
    best_effort: bool = False,
    seed: int = 0,
    strict: bool = False,
    measure: bool | None = None,
    decisions: str | os.PathLike[str] | None = None,
    explain: str | None = None,
    count_executed: bool = False,
    instruments: Sequence[Instrument] = (),
    progress: Progress | None = None,
) -> Optimized:
    """Optimize a model.

    Args:
        source: A file, bytes, `onnx.ModelProto`, `onnx_ir.Model`, or anything else a frontend
            loads; it is not changed.
        passes: Pipeline text, a pass, or several.
        output: Where to write the result; nothing is written if anything fails.
        artifact: Folder to write an artefact to; or what kind of one, under which settings.
        target: What the model is optimized for.
        calibration: Sample inputs: a folder, an .npz file, `module:function`, a function that
            returns feed dicts, or a list of them.
        verify: Check structure and numbers after "each" pass, at the "end", or not at all ("off").
        max_error: Largest relative RMS error of the outputs allowed, against the original.
        max_drop: Largest relative drop of `eval` allowed: `quant` leaves float what costs more. See
            `burnish.passes.quant.search.mixed`.
        eval: `module:function` that scores a model, given a function that runs it on feeds; higher
            is better. By default, agreement with the float model on held-out calibration samples.
        min_speedup: Least speed-up over the original allowed, of the whole model, timed on this
            machine; 1 forbids it to be slower. Where it is missed, the rules that cost most are
            held back; see `burnish.passes.ablation`.
        best_effort: Let passes that cannot meet their budget go as far as they can, with a warning.
        seed: Seed of every random choice.
        strict: Let the exception of a rule that raises pass; otherwise the rule is skipped there,
            with a warning.
        measure: Whether to time rewrites that may lose on the target, where that is not known of
            this machine yet; otherwise the recorded table decides on them. None measures unless
            `$BURNISH_MEASURE` is 0. See `burnish.passes.decide`.
        decisions: A report of an earlier build, whose decisions are taken again: nothing is
            measured, and the same input gives the same bytes on every machine.
        explain: Glob pattern of rules whose near misses go into the report; see
            `burnish.passes.explain`.
        count_executed: Put into the report which operators the runtime executes before and after,
            and warn if it fuses less than it did; see `burnish.backends.census`.
        instruments: Further watchers of passes and rewrites.
        progress: Shows progress of long work: (items, total, label) -> items.

    Returns:
        The transformed model and the report.

    Raises:
        InputError: bad model, pipeline, calibration data, decisions, or budget.
        VerificationError: the result is malformed or computes something else.
        BudgetError: `max_error` was exceeded, `min_speedup` was missed, or a pass cannot meet its
            budget.
    """
    started = time.perf_counter()
    _check_budget("max_error", max_error)
    _check_budget("min_speedup", min_speedup)
    plan = _plan(artifact)
    pipeline = with_max_drop(Pipeline.of(passes), max_drop, eval)
    pipeline = (with_best_effort(pipeline) if best_effort else pipeline).expand()
    on = target if isinstance(target, Target) else Target.parse(target)
    loaded = frontends.load(source)
    _check_opset(loaded.model, on)
    job = Job(
        pipeline,
        on,
        _calibration(calibration, loaded.model),
        verify=verify,
        max_error=max_error,
        seed=seed,
        strict=strict,
        measure=os.environ.get("BURNISH_MEASURE") != "0" if measure is None else measure,
        replay=decisions,
        explain=explain,
        count_executed=count_executed,
        progress=progress,
    )
    original = None if min_speedup is None else loaded.model.clone()
    with blaming_input(lambda: load(source)):
        built = job.build(loaded, instruments)
    if min_speedup is not None and original is not None:
        untouched = dataclasses.replace(loaded, model=original)
        built = fast_enough(Ablation(job, untouched, built, instruments), min_speedup)
    model, ctx, guard = built.model, built.ctx, built.guard
    report = Report(
        input={"source": _describe(source), "sha256": loaded.digest},
        pipeline=str(pipeline),
        target=on.name,
        seed=seed,
        versions=versions(),
        before=built.before,
        after=ModelStats.of(model),
        passes=ctx.reports,
        verification=guard.as_dict(),
        warnings=ctx.warnings,
        census=None if built.counts is None else _compared(built.counts, model, ctx),
        decisions=built.decisions.all(),
        explanations=[] if ctx.explain is None else ctx.explain.left_in(model),
    )
    _check_error(guard.final_error, max_error)
    if output is not None:
        with blaming_input(lambda: load(source)):
            OnnxRuntime().lower(model, on, Path(output))
    if plan is not None:
        origin = _origin(report, job.samples, pipeline, max_error)
        report.warnings += write(plan, model, on, origin, progress)[1]
    report.seconds = time.perf_counter() - started
    return Optimized(model, report)


def with_max_drop(pipeline: Pipeline, max_drop: float | None, eval: str | None) -> Pipeline:
    """Return a pipeline whose quantization keeps within a drop of a metric.

    Raises:
        InputError: nothing in it can, or there is a metric without a bound.
    """
    if max_drop is None and eval is None:
        return pipeline
    if max_drop is None:
        raise InputError("a metric alone decides nothing", hint="give --max-drop, too")
    from burnish.passes.quant.recipe import Recipe

    passes = tuple(
        dataclasses.replace(item, max_drop=max_drop, eval=item.eval if eval is None else eval)
        if isinstance(item, Recipe)
        else item
        for item in pipeline.passes
    )
    if not any(isinstance(item, Recipe) for item in passes):
        raise InputError(
            f"no pass of {pipeline} can keep within a drop", hint="put quant into the pipeline"
        )
    return Pipeline(passes)


def with_best_effort(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline whose passes go as far as they can where a budget cannot be met.

    Raises:
        InputError: nothing in it has a budget.
    """
    found: list[Pass] = []

    def eager(item: Pass) -> Pass:
        if isinstance(item, Fixpoint):
            return dataclasses.replace(item, members=tuple(map(eager, item.members)))
        if all(declared.name != "best_effort" for declared in options_of(type(item))):
            return item
        found.append(item)
        return dataclasses.replace(item, **{"best_effort": True})

    passes = tuple(map(eager, pipeline.passes))
    if not found:
        raise InputError(f"no pass of {pipeline} has a budget", hint="leave out --best-effort")
    return Pipeline(passes)


def versions() -> dict[str, str]:
    """Return package -> version of what takes part in an optimization."""
    return {name: metadata.version(name) for name in _PACKAGES}


def _plan(artifact: str | os.PathLike[str] | Plan | None) -> Plan | None:
    """Return what artefact to write, checked before the work."""
    plan = Plan(Path(artifact)) if isinstance(artifact, str | os.PathLike) else artifact
    if plan is not None:
        plan.check()
    return plan


def _check_budget(name: str, value: float | None) -> None:
    if value is not None and not value >= 0:  # NaN, too: nothing would ever miss it
        raise InputError(f"{name} {value:g} is no budget", hint="give 0 or more")


def _check_opset(model: ir.Model, target: Target) -> None:
    opset = model.opset_imports.get("", 0)
    if opset > target.max_opset:
        raise InputError(
            f"the model imports opset {opset}; target {target.name} runs up to {target.max_opset}",
            hint="export it at a lower opset",
        )


def _check_error(error: float | None, max_error: float | None) -> None:
    if max_error is not None and error is not None and error > max_error:
        raise BudgetError(
            f"the outputs differ by {error:.3g} (relative RMS) from the original; "
            f"the budget is {max_error:g}",
            hint="leave out lossy passes or raise the budget",
        )


def _compared(before: Census, model: ir.Model, ctx: PassContext) -> dict[str, Census]:
    """Count what the runtime executes now, and warn where it fuses less than before."""
    counts = {"before": before, "after": census(model, ctx.target)}
    for line in losses(before, counts["after"], ctx.target):
        ctx.warn(line)
    return counts


def _calibration(given: Calibration | None, model: ir.Model) -> CalibrationSource | None:
    if given is None or isinstance(given, CalibrationSource):
        return given
    if isinstance(given, str | os.PathLike):
        return CalibrationSource.open(os.fspath(given), model.graph.inputs)
    if callable(given):
        return CalibrationSource.from_iterable(given, model.graph.inputs)
    return CalibrationSource.from_iterable(lambda: given, model.graph.inputs)


def _origin(
    report: Report,
    samples: CalibrationSource | None,
    pipeline: Pipeline,
    max_error: float | None,
) -> dict[str, Any]:
    """What an artefact's manifest says of where it comes from."""
    return {
        "source": report.input["source"],
        "source_sha256": report.input["sha256"],
        "pipeline": report.pipeline,
        "calibration_sha256": None if samples is None else samples.digest,
        "seed": report.seed,
        "versions": report.versions,
        "lossless": all(item.lossless for item in pipeline.passes),
        "max_error": max_error,
    }


def _describe(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return type(source).__name__
