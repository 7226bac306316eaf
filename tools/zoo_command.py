# SPDX-License-Identifier: Apache-2.0
"""`burnish zoo`: real models and labelled data, by name."""

from __future__ import annotations

import click

from burnish.tools.cli import debug_option


@click.group(name="zoo", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Fetch real models and labelled data, by name, checked and cached."""


@command.command(name="list")
@debug_option
def list_entries() -> None:
    """List the models and data sets."""
    from burnish.tools import zoo
    from burnish.tools.present import show, table

    rows = [(entry.name, entry.summary, entry.licence) for entry in zoo.entries()]
    made = table("zoo", ("name", "what it is", "licence"), rows)
    for column in made.columns:
        column.justify = "left"
    show(made)


@command.command()
@click.argument("names", nargs=-1, required=True)
@debug_option
def fetch(names: tuple[str, ...]) -> None:
    """Fetch (and export, where needed) NAMES; print where each lies."""
    from burnish.tools import zoo

    for name in names:
        click.echo(f"{name}: {zoo.fetch(name)}")
