# SPDX-License-Identifier: Apache-2.0
"""`burnish inspect` of TensorRT engines: kernels, what they were fused from, types."""

from __future__ import annotations

import json
from pathlib import Path

import click

_NODES = 3


def engines(text: str) -> list[Path]:
    """The engine files that a path names: one, or those of an artefact and its parts; or none."""
    from burnish.backends.tensorrt.plan import is_engine

    path = Path(text)
    parts = ("*.engine", "part-*/*.engine")
    found = [f for part in parts for f in sorted(path.glob(part))] if path.is_dir() else [path]
    return [file for file in found if is_engine(file)]


def show_engines(paths: list[Path], as_json: bool) -> None:
    """Print the structure of engines."""
    from burnish.backends.tensorrt.plan import Structure, read
    from burnish.tools.present import show, size, table

    found: dict[Path, Structure] = {path: read(path) for path in paths}
    if as_json:
        data = [
            {"engine": str(path), "bytes": path.stat().st_size, **structure.as_dict()}
            for path, structure in found.items()
        ]
        click.echo(json.dumps(data[0] if len(data) == 1 else data, indent=2))
        return
    for path, structure in found.items():
        rows = [
            (kernel.kind, _shortened(kernel.nodes), ",".join(_types(kernel.inputs)),
             ",".join(_types(kernel.outputs)))
            for kernel in structure.kernels
        ]  # fmt: skip
        made = table(str(path), ("kernel", "of nodes", "reads", "writes"), rows)
        for column in made.columns:
            column.justify = "left"
        show(made)
        products = structure.summary()["products"]
        precision = ", ".join(f"{count} in {name}" for name, count in products.items()) or "none"
        show(
            f"TensorRT {structure.version}, for {', '.join(structure.devices) or 'any GPU'}: "
            f"{len(structure.kernels)} kernels, products and convolutions: {precision}; "
            f"{size(path.stat().st_size)}"
        )


def _shortened(nodes: tuple[str, ...]) -> str:
    more = len(nodes) - _NODES
    return " + ".join(nodes[:_NODES]) + (f" + {more} more" if more > 0 else "")


def _types(names: tuple[str, ...]) -> list[str]:
    """Element types that compute, without repetition; sizes are int64 and left out."""
    return list(dict.fromkeys(name for name in names if name != "int64")) or ["int64"]
