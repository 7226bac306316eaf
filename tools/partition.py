# SPDX-License-Identifier: Apache-2.0
"""`burnish partition MODEL --stages N -o DIR`: a model as a pipeline of stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from burnish.tools.cli import debug_option


@click.command(
    name="partition",
    epilog="Exit codes: 0 done, 2 bad usage or input, 3 the stages compute something else.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("model")
@click.option("--stages", type=click.IntRange(min=2), required=True, help="How many.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write them to.")
@click.option(
    "--balance",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="How much more than the mean a stage may cost.",
)
@click.option(
    "--cost",
    type=click.Choice(["flops", "time"]),
    default="flops",
    show_default=True,
    help="What to balance: operations, or the time of each node as measured here.",
)
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a named dimension.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    model: str,
    stages: int,
    output: str,
    balance: float,
    cost: Any,
    dims: tuple[str, ...],
    as_json: bool,
) -> None:
    """Cut MODEL into stages of like cost with little data between them."""
    from burnish import frontends
    from burnish.backends import partition
    from burnish.tools.bench import dimensions
    from burnish.tools.present import show, size, table

    found = partition.partition(
        frontends.load(model).model, stages, balance=balance, cost=cost, dims=dimensions(dims)
    )
    partition.write(found, Path(output))
    if as_json:
        click.echo(json.dumps(partition.as_dict(found), indent=2))
        return
    rows = [
        [
            str(number),
            str(stage.nodes),
            f"{stage.cost:.3g}",
            size(stage.weights),
            size(stage.bytes),
        ]
        for number, stage in enumerate(found.stages)
    ]
    unit = "operations" if cost == "flops" else "seconds"
    title = f"{stages} stages; the worst costs {found.imbalance:.1%} more than the mean"
    show(table(title, ("stage", "nodes", unit, "weights", "hands on"), rows))
    if found.shared:
        shared = size(sum(found.shared.values()))
        show(f"note: {len(found.shared)} weights ({shared}) are in more than one stage")
    show(f"the stages compute what {Path(model).name} does; wrote {output}")
