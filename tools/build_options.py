# SPDX-License-Identifier: Apache-2.0
"""Options of every command that builds a model; declared once, so that they mean the same."""

from __future__ import annotations

import click

passes = click.option(
    "--passes", default="fuse", show_default=True, help="Pipeline, e.g. fuse,quant."
)
target = click.option("--target", default="cpu", show_default=True, help="What to optimize for.")
calib = click.option("--calib", metavar="DIR|FILE.npz|MODULE:FUNCTION", help="Sample inputs.")
max_error = click.option(
    "--max-error", type=click.FloatRange(min=0), help="Largest relative RMS output error allowed."
)
disable = click.option(
    "--disable", multiple=True, metavar="NAME", help="Hold back a pass or rule (glob)."
)
no_measure = click.option(
    "--no-measure", is_flag=True, help="Decide by the recorded table, not by timing."
)
decisions = click.option("--decisions", metavar="R.json", help="Decide as an earlier report says.")
seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of random choices.",
)
