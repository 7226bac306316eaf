# SPDX-License-Identifier: Apache-2.0
"""`burnish verify-artifact DIR`: is it what it says it is, and does it compute what it should?"""

from __future__ import annotations

import dataclasses
import json

import click

from burnish.tools import build_options
from burnish.tools.cli import debug_option


@click.command(
    name="verify-artifact",
    epilog="Exit codes: 0 as it should be, 2 changed or no artefact, 3 computes something else.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("artifact")
@click.option("--source", metavar="MODEL", help="Compare outputs with the model it was made from.")
@click.option("--samples", metavar="DIR|FILE.npz", help="Inputs to compare on; random by default.")
@build_options.max_error
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of random inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    artifact: str,
    source: str | None,
    samples: str | None,
    max_error: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the files of ARTIFACT with their digests, and its outputs with its source's."""
    from burnish.backends.artifact import folder
    from burnish.backends.artifact.check import verify_artifact
    from burnish.tools.present import show, size

    found = verify_artifact(
        artifact,
        source,
        samples=None if samples is None else (feeds for _, feeds in folder.samples(samples)),
        max_error=max_error,
        seed=seed,
    )
    if as_json:
        data = {**dataclasses.asdict(found), "manifest": found.manifest.as_dict()}
        click.echo(json.dumps(data, indent=2))
        return
    kind, target = found.manifest.kind, found.manifest.target
    plural = "s" * (found.files != 1)
    show(f"{found.files} file{plural} ({size(found.bytes)}) as built: kind {kind}, target {target}")
    if found.error is None:
        show(f"numbers were not compared: {found.skipped}")
    else:
        inputs = f"{found.samples} sample{'s' * (found.samples != 1)}"
        show(f"relative error {found.error:.2e} against {found.manifest.source} ({inputs})")
