# SPDX-License-Identifier: Apache-2.0
"""`burnish bench A [B ...]`: which model is faster, and can they be told apart at all?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from burnish.errors import InputError
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from burnish.backends.measure import Comparison


@click.command(name="bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--budget", type=click.FloatRange(min=0), default=60.0, help="Seconds at most.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a named dimension.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--memory", is_flag=True, help="Measure peak memory too, each in its own process.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    models: tuple[str, ...],
    threads: int,
    repeats: int,
    budget: float,
    dims: tuple[str, ...],
    seed: int,
    memory: bool,
    as_json: bool,
) -> None:
    """Time MODELS in turns (A B A B ...) on ONNX Runtime; ratios are to the first."""
    from burnish.backends import measure, onnxruntime
    from burnish.tools.present import show, size, table

    sizes = dimensions(dims)
    names = _unique(models)
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(
                onnxruntime.session(_existing(path), threads=threads, optimize="all")
            )
            for name, path in zip(names, models, strict=True)
        }
        feeds = {
            name: measure.random_feeds(session, seed=seed, dims=sizes)
            for name, session in sessions.items()
        }
        found = measure.compare(sessions, feeds, repeats=repeats, budget=budget)
    peaks: dict[str, int] = {}
    if memory:
        for name, path in zip(names, models, strict=True):
            used = measure.inference_memory(Path(path), seed=seed, dims=sizes, threads=threads)
            peaks[name] = used.peak
    if as_json:
        click.echo(json.dumps(_as_dict(found, peaks, threads), indent=2))
        return
    columns = ["model", "median ms", "p10", "p90", "speedup", "95% interval", "verdict"]
    rows = [
        [
            item.name,
            f"{1e3 * item.median:.2f}",
            f"{1e3 * item.p10:.2f}",
            f"{1e3 * item.p90:.2f}",
            f"{item.speedup:.2f}",
            f"{item.low:.2f}..{item.high:.2f}",
            item.verdict,
        ]
        for item in found.timings
    ]
    if memory:
        columns.append("peak memory")
        rows = [[*row, size(peaks[row[0]])] for row in rows]
    show(table(f"{found.rounds} rounds in turns, threads: {threads}", columns, rows))


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.is_file():
        raise InputError(f"no such model: {path}")
    return found


def _unique(models: tuple[str, ...]) -> list[str]:
    """File names, or whole paths where two files have the same name."""
    names = [Path(model).name for model in models]
    chosen = names if len(set(names)) == len(names) else list(models)
    if len(set(chosen)) != len(chosen):
        chosen = [f"{name} #{index}" for index, name in enumerate(chosen, 1)]
    return chosen


def dimensions(texts: tuple[str, ...]) -> dict[str, int]:
    """Read `NAME=N`, several times."""
    return dict(map(_dimension, texts))


def _dimension(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit() or int(value) < 1:
        raise InputError(f"--dim {text!r} is not NAME=N", hint="for example --dim batch=8")
    return name, int(value)


def _as_dict(found: Comparison, peaks: dict[str, int], threads: int) -> dict[str, object]:
    timings = [
        {
            **dataclasses.asdict(item),
            "verdict": item.verdict,
            **({"peak_bytes": peaks[item.name]} if peaks else {}),
        }
        for item in found.timings
    ]
    return {"rounds": found.rounds, "threads": threads, "timings": timings}
