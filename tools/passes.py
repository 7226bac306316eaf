# SPDX-License-Identifier: Apache-2.0
"""`burnish passes [NAME]`: the passes, their options and their rules."""

from __future__ import annotations

import click

from burnish.tools.cli import debug_option


@click.command(name="passes", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@debug_option
def command(name: str | None) -> None:
    """List the passes, or show the options and rules of the pass NAME."""
    from burnish.errors import InputError
    from burnish.passes import registry
    from burnish.tools import reference
    from burnish.tools.present import show, table

    if name is not None:
        click.echo(reference.describe(registry.lookup(name)))
        return

    def summary(each: str) -> str:
        try:
            return reference.summary(registry.lookup(each))
        except InputError as error:  # a broken plugin; the other passes are there all the same
            return f"({error})"

    rows = [(each, summary(each)) for each in registry.names()]
    made = table("passes", ("name", "what it does"), rows)
    made.columns[1].justify = "left"
    show(made)
