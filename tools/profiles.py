# SPDX-License-Identifier: Apache-2.0
"""`burnish profiles REQUESTS`: which shapes to build for, and what padding to expect."""

from __future__ import annotations

import json
from pathlib import Path

import click

from burnish.tools.cli import debug_option


@click.command(name="profiles", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("requests")
@click.option(
    "--max-padding",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    help="Padded elements per element of REQUESTS allowed.",
)
@click.option("--padded", is_flag=True, help="Requests will be padded; see optimize --pad.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(requests: str, max_padding: float, padded: bool, as_json: bool) -> None:
    """Find the fewest profiles for REQUESTS: a .jsonl or .csv file, one's shapes a line."""
    from burnish.backends import traffic
    from burnish.tools.present import show, table

    found = traffic.cover(traffic.read(Path(requests)), max_padding, padded=padded)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    rows = [
        [
            profile.name,
            "\n".join(profile.inputs),
            *(
                "\n".join("x".join(map(str, span[end])) for span in profile.inputs.values())
                for end in range(3)
            ),
            str(count),
        ]
        for profile, count in zip(found.profiles, found.requests, strict=True)
    ]
    show(table(str(found), ("profile", "input", "min", "opt", "max", "requests"), rows))
