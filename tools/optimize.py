# SPDX-License-Identifier: Apache-2.0
"""`optimize MODEL`: the main job."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from burnish.errors import BurnishError, InputError
from burnish.tools import build_options
from burnish.tools.artifact_options import ArtifactOptions, artifact_options
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from burnish.api import Optimized
    from burnish.passes.instrument import Instrument
    from burnish.passes.pipeline import Pipeline
    from burnish.passes.reproducer import Failure

_EPILOG = (
    "Exit codes: 0 done, 1 internal error, 2 bad usage or input, 3 verification failed, "
    "4 a budget was missed."
)


@click.command(
    name="optimize", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="burnish")
@click.argument("model")
@click.option("-o", "--output", help="Where to write; default MODEL.opt.onnx. DIR/: --artifact.")
@artifact_options
@build_options.passes
@build_options.target
@build_options.calib
@click.option(
    "--verify",
    type=click.Choice(["each", "end", "off"]),
    default="end",
    show_default=True,
    help="When to check structure and numbers.",
)
@build_options.max_error
@click.option(
    "--max-drop",
    metavar="1%",
    callback=lambda _ctx, _option, text: None if text is None else parse_share(text),
    help="Largest relative drop of --eval allowed; quant leaves float what costs more.",
)
@click.option(
    "--eval",
    "metric",
    metavar="MODULE:FUNCTION",
    help="Scores a model, given its run(feeds); higher is better. "
    "Default: agreement with the float model.",
)
@click.option(
    "--min-speedup",
    type=click.FloatRange(min=0),
    metavar="RATIO",
    help="Least speed-up over MODEL allowed, timed here; rules that cost are held back. "
    "1: never slower.",
)
@click.option(
    "--best-effort", is_flag=True, help="Where a pass cannot meet its budget, go as far as it can."
)
@click.option("--report", metavar="R.json", help="Write the report as JSON.")
@build_options.no_measure
@build_options.decisions
@click.option("--dry-run", is_flag=True, help="Show the expanded pipeline; write nothing.")
@click.option("--timing", is_flag=True, help="Show seconds by pass and rule.")
@click.option("--census", is_flag=True, help="Count what the runtime executes, before and after.")
@click.option(
    "--explain",
    is_flag=False,
    flag_value="*",
    metavar="[RULE]",
    help="Show where rules nearly applied and why they did not; all of it for RULE (glob).",
)
@click.option("--print-ir-after", multiple=True, metavar="PASS|all", help="Print the model after.")
@click.option("--bisect-limit", type=click.IntRange(min=0), help="Do only the first N rewrites.")
@build_options.disable
@click.option("--strict", is_flag=True, help="Stop at a rule that raises; do not skip it.")
@build_options.seed
@click.option("--force", is_flag=True, help="Allow -o to name the input.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@debug_option
def command(
    model: str,
    output: str | None,
    artifact: ArtifactOptions,
    passes: str,
    target: str,
    calib: str | None,
    verify: Any,
    max_error: float | None,
    max_drop: float | None,
    metric: str | None,
    min_speedup: float | None,
    best_effort: bool,
    report: str | None,
    no_measure: bool,
    decisions: str | None,
    dry_run: bool,
    timing: bool,
    census: bool,
    explain: str | None,
    print_ir_after: tuple[str, ...],
    bisect_limit: int | None,
    disable: tuple[str, ...],
    strict: bool,
    seed: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Optimize MODEL (an .onnx file, a .pt2 program, or module:function) by composable passes."""
    from burnish.tools.startup import defer_imports

    defer_imports()
    from burnish import api
    from burnish.passes.pipeline import Pipeline
    from burnish.passes.reproducer import Failure, FailureWatch
    from burnish.tools import present

    if output is not None and output.endswith(("/", os.sep)):
        artifact, output = artifact.at(output), None
    plan = artifact.plan()
    destination = _default_output(model) if output is None else Path(output)
    written = None if plan is not None and output is None else destination
    _check_destinations(model, written, report, force=force)
    if plan is not None:
        plan.check()
        destination = plan.path if written is None else destination
    pipeline = api.with_max_drop(Pipeline.parse(passes), max_drop, metric)
    pipeline = api.with_best_effort(pipeline) if best_effort else pipeline
    check_names(pipeline, "--disable", disable)
    check_names(pipeline, "--print-ir-after", [name for name in print_ir_after if name != "all"])
    check_names(pipeline, "--explain", [] if explain is None else [explain])
    if dry_run:
        present.dry_run(pipeline, model, target, calib)
        return
    watch = FailureWatch()
    instruments = [watch, *_instruments(bisect_limit, disable, print_ir_after)]
    try:
        result = api.optimize(
            model,
            pipeline,
            output=written,
            artifact=plan,
            target=target,
            calibration=calib,
            verify=verify,
            max_error=max_error,
            min_speedup=min_speedup,
            seed=seed,
            strict=strict,
            measure=False if no_measure else None,
            decisions=decisions,
            explain=explain,
            count_executed=census,
            instruments=instruments,
            progress=None if quiet or as_json else present.progress,
        )
    except BurnishError:
        raise
    except Exception as error:
        failure = Failure.of(watch.event, watch.model, error)
        bundle = _write_reproducer(failure, destination, "reproducer.zip")
        error.add_note(f"please report it with {bundle}")
        raise
    for rule, failure in watch.skipped_rules.items():
        bundle = _write_reproducer(failure, destination, f"{rule}.reproducer.zip")
        result.report.warnings.append(f"please report the failure of {rule} with {bundle}")
    _deliver(
        result, destination, report, as_json=as_json, quiet=quiet, timing=timing, explain=explain
    )


def parse_share(text: str) -> float:
    """Read `1%` or `0.01`.

    Raises:
        InputError: it is neither, or not between 0 and 1.
    """
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise InputError(f"--max-drop {text!r} is no share", hint="give one such as 1% or 0.01")
    return found


def _default_output(model: str) -> Path:
    path = Path(model)
    if not path.name:  # "." or "/": the frontend says better what is wrong with them
        return Path("model.opt.onnx")
    if path.exists() or path.suffix:
        return path.with_name(f"{path.stem}.opt.onnx")
    return Path(f"{model.rpartition(':')[2]}.opt.onnx")


def _check_destinations(
    model: str, output: Path | None, report: str | None, *, force: bool
) -> None:
    """Refuse before the work what could only fail after it."""
    if output == Path("-"):
        raise InputError("models are not written to standard output", hint="name a file by -o")
    for path in filter(None, (output, Path(report) if report else None)):
        if path.is_dir():
            raise InputError(f"output {path} is a folder", hint="name a file")
        if path.exists() and not path.is_file():  # renaming onto a device would replace it
            raise InputError(f"output {path} is not a regular file", hint="choose another with -o")
        if not path.parent.is_dir():
            raise InputError(f"output folder {path.parent} does not exist", hint="create it")
        if not os.access(path.parent, os.W_OK):
            raise InputError(
                f"output folder {path.parent} cannot be written", hint="choose another with -o"
            )
    source = Path(model)
    if output is not None and _is_same(source, output) and not force:
        raise InputError(f"output {output} is the input", hint="add --force to overwrite it")
    if report and _is_same(source, Path(report)):
        raise InputError(f"report {report} is the input", hint="give another name")
    if output is None or not report:
        return
    if _is_same(output, Path(report)) or output.absolute() == Path(report).absolute():
        raise InputError(f"{report} is named twice, as output and report", hint="give two names")


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def check_names(pipeline: Pipeline, option: str, patterns: Iterable[str]) -> None:
    """Refuse a pattern that no pass or rule of the pipeline bears."""
    from burnish.passes import registry

    known = pipeline.rule_names()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"{option} {pattern!r} names no pass or rule of this pipeline",
                hint=registry.nearest(pattern, known),
            )


def _instruments(
    bisect_limit: int | None, disable: tuple[str, ...], print_ir_after: tuple[str, ...]
) -> list[Instrument]:
    from burnish.passes.instrument import BisectLimit, Disable, PrintIR

    chosen: list[Instrument] = []
    if bisect_limit is not None:
        chosen.append(BisectLimit(bisect_limit))
    if disable:
        chosen.append(Disable(disable))
    if print_ir_after:
        chosen.append(PrintIR(print_ir_after))
    return chosen


def _deliver(
    result: Optimized,
    destination: Path,
    report: str | None,
    *,
    as_json: bool,
    quiet: bool,
    timing: bool,
    explain: str | None,
) -> None:
    from burnish.files import write_aside
    from burnish.tools import present

    if report is not None:
        with write_aside(report) as aside:
            aside.write_text(_json(result) + "\n", encoding="utf-8")
    if as_json:
        click.echo(_json(result))
    elif not quiet:
        if explain is not None:
            present.near_misses(result.report.explanations, whole=explain != "*")
        present.summary(result.report, destination, timing=timing)


def _json(result: Optimized) -> str:
    return json.dumps(result.report.as_dict(), indent=2)


def _write_reproducer(failure: Failure, destination: Path, suffix: str) -> Path:
    from burnish import api
    from burnish.passes.reproducer import write_bundle

    path = destination.with_name(f"{destination.stem}.{suffix}")
    return write_bundle(path, failure, command=shlex.join(sys.argv), versions=api.versions())
