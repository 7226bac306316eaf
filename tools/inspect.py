# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect MODEL`: what is in a model, and what the runtime makes of it."""

from __future__ import annotations

import dataclasses
import json
import string
from typing import TYPE_CHECKING

import click

from burnish.errors import InputError
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    import onnx_ir as ir

    from burnish.backends.census import Census


@click.command(name="inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--fused", is_flag=True, help="Count fused operators, stored and executed.")
@click.option("--sparsity", is_flag=True, help="Show zeros, FLOPs and parameters by layer.")
@click.option("--pattern", default="2:4", show_default=True, help="N:M to hold weights against.")
@click.option("--plot", metavar="SVG", help="Draw the share of zeros by layer.")
@click.option("--target", default="cpu", show_default=True, help="What executes them.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    models: tuple[str, ...],
    fused: bool,
    sparsity: bool,
    pattern: str,
    plot: str | None,
    target: str,
    as_json: bool,
) -> None:
    """Show the inputs, outputs, operators and size of MODEL.

    Of a TensorRT engine, or an artefact with engines, show the kernels and their types; that takes
    no GPU.

    With --fused, count its fused operators: those it holds, and those the runtime executes after
    its own optimization. Several models are compared.

    With --sparsity, show what is zero: by layer, its share, how many groups along the axis that
    outputs sum over have the N:M --pattern, parameters and floating-point operations.
    """
    if fused and sparsity:
        raise InputError("--fused and --sparsity exclude each other")
    if plot is not None and not sparsity:
        raise InputError("--plot draws what --sparsity shows", hint="add --sparsity")
    from burnish.tools.engine import engines, show_engines

    found = [path for model in models for path in engines(model)]
    if found:
        show_engines(found, as_json)
    elif fused:
        _fused(models, target, as_json)
    elif len(models) > 1:
        raise InputError("one model is shown at a time", hint="add --fused to compare several")
    elif sparsity:
        from burnish.tools.sparsity import report

        report(models[0], pattern, plot, as_json=as_json)
    else:
        _contents(models[0], as_json)


def _contents(model: str, as_json: bool) -> None:
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


def _fused(models: tuple[str, ...], target: str, as_json: bool) -> None:
    from burnish import frontends
    from burnish.backends.census import census, losses
    from burnish.backends.target import Target
    from burnish.tools.present import census_table, show

    on = Target.parse(target)
    found: dict[str, Census] = {}
    for name in models:
        # Not the file itself: the runtime may refuse what a frontend repairs.
        label = name if name not in found else f"{name} #{len(found) + 1}"
        found[label] = census(frontends.load(name).model, on)
    first, *others = found
    lost = {name: losses(found[first], found[name], on) for name in others}
    if as_json:
        data = [{"model": name, **item.as_dict()} for name, item in found.items()]
        click.echo(json.dumps({"models": data, "losses": lost}, indent=2))
        return
    letters = dict(zip(string.ascii_uppercase, found, strict=False))
    show(*(f"{letter}: {name}" for letter, name in letters.items()))
    sides = {letter: found[name] for letter, name in letters.items()}
    show(census_table("fused operators", sides))
    for letter, name in letters.items():
        for line in lost.get(name, ()):
            show(f"note: {letter}: {line}")


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
