# SPDX-License-Identifier: Apache-2.0
"""`burnish ablate MODEL`: what each rule brings to the whole model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from burnish.tools import build_options
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from rich.table import Table

    from burnish.passes.ablation import Contribution
    from burnish.passes.decide import Decision


@click.command(name="ablate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@build_options.passes
@build_options.target
@build_options.calib
@build_options.disable
@build_options.decisions
@build_options.seed
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    model: str,
    passes: str,
    target: str,
    calib: str | None,
    disable: tuple[str, ...],
    decisions: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Build MODEL again without each rule that did something, and time it with and without.

    Every measurement is kept: asked again, it is not taken again.
    """
    from burnish import frontends
    from burnish.backends.target import Target
    from burnish.passes.ablation import Ablation
    from burnish.passes.build import Job
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.instrument import Disable
    from burnish.passes.pipeline import Pipeline
    from burnish.tools import present
    from burnish.tools.optimize import check_names

    pipeline = Pipeline.parse(passes)
    check_names(pipeline, "--disable", disable)
    loaded = frontends.load(model)
    job = Job(
        pipeline.expand(),
        Target.parse(target),
        None if calib is None else CalibrationSource.open(calib, loaded.model.graph.inputs),
        seed=seed,
        replay=decisions,
        progress=None if as_json else present.progress,
    )
    ablation = Ablation.of(job, loaded, [Disable(disable)] if disable else [])
    speed = ablation.speed()
    rules = sorted(ablation.contributions(), key=lambda item: -item.speedup)
    if as_json:
        data = {"speed": asdict(speed), "rules": [asdict(item) for item in rules]}
        click.echo(json.dumps(data, indent=2))
    else:
        present.show(_whole(speed), _table(model, rules))


def _whole(speed: Decision) -> str:
    ratio, interval, verdict = _told(speed, "")
    if not ratio:
        return f"with all rules: {verdict}"
    told = {"pays": "faster than", "costs": "slower than"}.get(verdict, "not to be told apart from")
    return f"with all rules: {ratio} times as fast as the original ({interval}), {told} it"


def _table(model: str, rules: Sequence[Contribution]) -> Table:
    from burnish.tools.present import table

    rows = [
        (item.rule, str(item.rewrites), str(item.nodes or ""), *_told(item.decision, item.note))
        for item in rules
    ]
    columns = ("rule", "places", "nodes", "speed", "95%", "")
    title = f"{Path(model).name}, rule by rule: nodes without it, speed with it"
    made = table(title, columns, rows)
    for column in made.columns[:-1]:
        column.no_wrap = True
    made.columns[-1].justify = "left"
    made.columns[-1].min_width = len("costs")
    return made


def _told(found: Decision | None, note: str) -> tuple[str, str, str]:
    """Return how fast the model is with the rule, the interval of that, and a verdict."""
    if found is None or found.ratio is None:
        return "", "", note if found is None else found.note
    known = found.low is not None and found.high is not None
    interval = f"{found.low:.3f}-{found.high:.3f}" if known else ""
    verdict = "same" if found.note else "pays"
    return f"{found.ratio:.3f}", interval, "costs" if found.chosen == "original" else verdict
