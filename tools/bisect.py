# SPDX-License-Identifier: Apache-2.0
"""`burnish bisect MODEL`: find the first rewrite that breaks a model."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from burnish.errors import VerificationError
from burnish.tools import build_options
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from burnish.tools.bisection import Culprit


@click.command(
    name="bisect",
    epilog="Exit codes: 0 all rewrites are good, 2 bad usage or input, 3 a bad rewrite was found.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("model")
@build_options.passes
@build_options.target
@build_options.calib
@build_options.max_error
@build_options.disable
@build_options.no_measure
@build_options.decisions
@build_options.seed
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    model: str,
    passes: str,
    target: str,
    calib: str | None,
    max_error: float | None,
    disable: tuple[str, ...],
    no_measure: bool,
    decisions: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Find the first rewrite of --passes that breaks MODEL.

    The options are those of `optimize`. A model is broken if it is malformed, computes something
    else than the original, misses its error budget, or a pass raises.
    """
    from burnish import frontends
    from burnish.passes.instrument import Disable
    from burnish.passes.pipeline import Pipeline
    from burnish.tools.bisection import first_bad, trial_of
    from burnish.tools.optimize import check_names

    pipeline = Pipeline.parse(passes)
    check_names(pipeline, "--disable", disable)
    trial = trial_of(
        frontends.load(model).model,
        pipeline,
        progress=lambda line: click.echo(line, err=True),
        instruments=[Disable(disable)] if disable else [],
        target=target,
        calibration=calib,
        max_error=max_error,
        measure=False if no_measure else None,
        decisions=decisions,
        seed=seed,
    )
    culprit = first_bad(trial)
    if as_json:
        click.echo(json.dumps(culprit and asdict(culprit), indent=2))
    elif culprit is None:
        click.echo("no rewrite is at fault: the model is right after all of them")
    else:
        click.echo(_story(culprit, model, passes))
    if culprit is not None:
        raise click.exceptions.Exit(VerificationError.exit_code)


def _story(culprit: Culprit, model: str, passes: str) -> str:
    words = shlex.join(["optimize", model, "--passes", passes])
    return (
        f"rewrite {culprit.number} is the first bad one: rule {culprit.rule} of pass {culprit.of} "
        f"at {culprit.node!r}\n{culprit.problem}\n"
        f"to see it: {words} --bisect-limit {culprit.number}\n"
        f"to do without it: {words} --disable {culprit.rule}"
    )
