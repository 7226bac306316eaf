# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect MODEL`: what is in a model."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    import onnx_ir as ir


@click.command(name="inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(model: str, as_json: bool) -> None:
    """Show the inputs, outputs, operators and size of MODEL."""
    from burnish import frontends
    from burnish.passes.report import ModelStats
    from burnish.passes.verify import verify
    from burnish.tools.present import show, size, table

    loaded = frontends.load(model)
    stats = ModelStats.of(loaded.model)
    graph = loaded.model.graph
    problems = verify(loaded.model)
    if as_json:
        data = {
            "model": model,
            "sha256": loaded.digest,
            "inputs": [_interface(value) for value in graph.inputs],
            "outputs": [_interface(value) for value in graph.outputs],
            **dataclasses.asdict(stats),
            "notes": list(loaded.notes),
            "problems": problems,
        }
        click.echo(json.dumps(data, indent=2))
        return
    rows = [
        (kind, value.name or "", _type_text(value))
        for kind, values in (("input", graph.inputs), ("output", graph.outputs))
        for value in values
    ]
    made = table(model, ("", "name", "type"), rows)
    for column in made.columns:
        column.justify = "left"
    show(made)
    ops = sorted(stats.ops.items(), key=lambda pair: (-pair[1], pair[0]))
    show(table("operators", ("operator", "nodes"), [(name, str(count)) for name, count in ops]))
    parameters = f"{stats.parameters:,} parameters in {size(stats.bytes)}"
    show(f"{stats.nodes} nodes, {parameters}, opset {stats.opset}")
    for line in (*loaded.notes, *problems):
        show(f"note: {line}")


def _interface(value: ir.Value) -> dict[str, object]:
    dims = None if value.shape is None else [_dim(dim) for dim in value.shape]
    return {
        "name": value.name,
        "dtype": None if value.dtype is None else value.dtype.name.lower(),
        "shape": dims,
    }


def _dim(dim: object) -> int | str:
    return dim if isinstance(dim, int) else str(getattr(dim, "value", dim))


def _type_text(value: ir.Value) -> str:
    about = _interface(value)
    dims = about["shape"]
    inside = ",".join(map(str, dims)) if isinstance(dims, list) else "any rank"
    return f"{about['dtype'] or value.type}[{inside}]"
