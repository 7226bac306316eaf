# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect --sparsity`: zeros of each layer as a table, JSON and a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from burnish.errors import InputError

if TYPE_CHECKING:
    from burnish.passes.prune.survey import Survey


def report(model: str, pattern: str, plot: str | None, *, as_json: bool) -> None:
    """Show what is sparse in a model.

    Args:
        model: The model to load.
        pattern: N:M.
        plot: SVG file to draw, or None.
        as_json: Print JSON instead of a table.

    Raises:
        InputError: the model or the pattern cannot be read, or the chart not be written.
    """
    from burnish import frontends
    from burnish.passes.prune.pattern import Kept, parse
    from burnish.passes.prune.survey import survey
    from burnish.passes.shapes import infer_shapes

    wanted = parse(pattern)
    if not isinstance(wanted, Kept):
        raise InputError(f"{pattern!r} is no N:M pattern", hint="give 2:4, say")
    loaded = frontends.load(model).model
    infer_shapes(loaded)
    found = survey(loaded, wanted)
    if plot is not None:
        _draw(model, found, Path(plot))
    if as_json:
        click.echo(json.dumps({"model": model, **found.as_dict()}, indent=2))
    else:
        _show(model, found)


def _show(model: str, found: Survey) -> None:
    from burnish.tools.present import show, size, table

    rows = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.elements:,}" + " (shared)" * layer.shared,
            f"{layer.sparsity:.1%}",
            f"{layer.conform:.1%}",
            f"{layer.flops / 1e6:,.1f}",
        )
        for layer in found.layers
    ]
    total = found.as_dict()["total"]
    rows.append(
        (
            "all",
            "",
            f"{total['elements']:,}",
            f"{total['sparsity']:.1%}",
            "",
            f"{total['flops'] / 1e6:,.1f}",
        )
    )
    columns = ("layer", "weight", "parameters", "zeros", found.pattern, "MFLOPs")
    show(table(model, columns, rows))
    for name, count in found.bytes.items():
        show(f"weights, {name}: {size(count)}")
    if found.unread:
        show(f"note: {len(found.unread)} layers with packed weights were not read")


def _draw(model: str, found: Survey, path: Path) -> None:
    from burnish.tools.chart import bars

    rows = [
        (layer.name, layer.sparsity, f"{layer.sparsity:.1%}, {found.pattern} {layer.conform:.0%}")
        for layer in found.layers
    ]
    bars(path, f"{Path(model).name}: share of zeros", rows)
