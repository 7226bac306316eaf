# SPDX-License-Identifier: Apache-2.0
"""`burnish bench A [B ...]`: which model is faster, and can they be told apart at all?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from burnish.errors import BurnishError, InputError
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from rich.table import Table

    from burnish.backends.measure import Comparison, Timing
    from burnish.backends.onnxruntime import TensorSpec
    from burnish.backends.profile import OperatorTime


@click.command(name="bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of model files; artefacts have their own.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--loads",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="How often models are loaded anew; repeats are shared among them.",
)
@click.option("--warmup", type=click.IntRange(min=0), default=3, show_default=True)
@click.option("--budget", type=click.FloatRange(min=0), default=60.0, help="Seconds at most.")
@click.option("--dim", "given", multiple=True, metavar="NAME=N", help="Size of a named dimension.")
@click.option("--batch", metavar="N,N,...", help="Batch sizes: of the first axis of the inputs.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random inputs.",
)
@click.option("--memory", is_flag=True, help="Measure peak memory too, each in its own process.")
@click.option("--profile", is_flag=True, help="Show the time of each kind of operator.")
@click.option("--plot", metavar="P.svg", help="Write what is shown as a picture.")
@click.option("--record", is_flag=True, help="Add the figures to artefacts' measured.json.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@debug_option
def command(
    models: tuple[str, ...],
    threads: int,
    repeats: int,
    loads: int,
    warmup: int,
    budget: float,
    given: tuple[str, ...],
    batch: str | None,
    seed: int,
    memory: bool,
    profile: bool,
    plot: str | None,
    record: bool,
    as_json: bool,
) -> None:
    """Time MODELS (files or artefacts) in turns: A B, B A, ...; ratios are to the first."""
    from burnish.backends import measure
    from burnish.tools.present import show

    variants = [_Variant(name, Path(model), threads) for name, model in _named(models)]
    if record and not any(variant.is_artifact for variant in variants):
        raise InputError("--record is for artefacts", hint="name a folder that optimize wrote")
    runs = []
    for sizes in _sizes(variants[0], dimensions(given), batch):
        dims = variants[0].dims(seed, sizes.dims)
        feeds = {variant.name: variant.feeds(seed, dims) for variant in variants}
        found = measure.compare_loads(
            {variant.name: variant.open for variant in variants},
            feeds,
            loads=loads,
            repeats=repeats,
            warmup=warmup,
            budget=budget,
        )
        runs.append(
            _Run(
                sizes.batch,
                dims,
                found,
                {v.name: v.memory(seed, dims) for v in variants} if memory else {},
                {v.name: v.profile(feeds[v.name]) for v in variants} if profile else {},
            )
        )
    data = {"threads": threads, **_as_dict(runs)}
    for variant in variants if record else ():
        variant.record(data)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    shown = [table for run in runs for table in run.tables(threads)]
    if not as_json:
        show(*shown)
    if plot is not None:
        _picture(Path(plot), shown)


# --- what is measured --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variant:
    """A model file, or an artefact."""

    name: str
    path: Path
    threads: int

    @property
    def is_artifact(self) -> bool:
        return self.path.is_dir()

    def open(self) -> AbstractContextManager[Any]:
        if self.is_artifact:
            from burnish.backends.artifact.folder import load_artifact

            # Its digests were compared when its inputs were looked up.
            return load_artifact(self.path, check=False)
        from burnish.backends.onnxruntime import session

        if not self.path.is_file():
            raise InputError(f"no such model: {self.path}")
        return session(self.path, threads=self.threads, optimize="all")

    def inputs(self) -> tuple[TensorSpec, ...]:
        if self.is_artifact:
            from burnish.backends.artifact import manifest

            manifest.check_files(self.path, manifest.read(self.path))
        with self.open() as loaded:
            inputs: tuple[TensorSpec, ...] = loaded.inputs
        return inputs

    def dims(self, seed: int, given: Mapping[str, int]) -> dict[str, int]:
        """Sizes of all symbolic dimensions that it runs with."""
        from burnish.backends.feeds import random_run, symbol_sizes

        inputs = self.inputs()
        symbols = ", ".join(symbol_sizes(inputs, given))
        with self.open() as loaded:
            try:
                return random_run(loaded, seed, given).sizes
            except BurnishError as error:
                if not symbols:
                    raise
                raise InputError(
                    f"{self.name} does not run on random inputs: {error}",
                    hint=f"--dim NAME=N gives a dimension another size; there are: {symbols}",
                ) from error

    def feeds(self, seed: int, dims: Mapping[str, int]) -> dict[str, Any]:
        from burnish.backends.feeds import random_feeds

        return random_feeds(_Inputs(self.inputs()), seed, self._own(dims))

    def memory(self, seed: int, dims: Mapping[str, int]) -> int:
        from burnish.backends.memory import inference_memory

        own = self._own(dims)
        return inference_memory(self._model(), seed=seed, dims=own, threads=self.threads).peak

    def _own(self, dims: Mapping[str, int]) -> dict[str, int]:
        from burnish.backends.feeds import symbol_sizes

        known = symbol_sizes(self.inputs(), {})
        return {name: size for name, size in dims.items() if name in known}

    def profile(self, feeds: Mapping[str, Any]) -> list[OperatorTime]:
        from burnish.backends.profile import by_operator, profile
        from burnish.backends.settings import SessionSettings

        settings = SessionSettings(threads=self.threads)
        if self.is_artifact:
            from burnish.backends.artifact import folder, manifest

            settings = folder.settings_of(manifest.read(self.path))
        return by_operator(profile(self._model(), feeds, settings=settings))

    def record(self, data: Mapping[str, Any]) -> None:
        if self.is_artifact:
            from burnish.backends.artifact.measured import record

            record(self.path, "bench", data)

    def _model(self) -> Path:
        """The model's file, for what only ONNX Runtime tells."""
        if not self.is_artifact:
            return self.path
        from burnish.backends.artifact import manifest

        found = manifest.read(self.path)
        if found.kind not in ("onnx", "onnx-optimized", "ort"):
            raise InputError(
                f"--memory and --profile are for ONNX Runtime; {self.name} is {found.kind}",
                hint="leave them out",
            )
        return self.path / found.entry


@dataclass(frozen=True)
class _Inputs:
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class _Sizes:
    batch: int | None
    dims: dict[str, int]


def _sizes(first: _Variant, dims: dict[str, int], batch: str | None) -> list[_Sizes]:
    """Sizes of dimensions, for each batch."""
    if batch is None:
        return [_Sizes(None, dims)]
    sizes = batch.split(",")
    if not all(size.isdigit() and int(size) for size in sizes):
        raise InputError(f"--batch {batch!r} is not N,N,...", hint="for example 1,8,32")
    axes = {spec.shape[0] for spec in first.inputs() if spec.shape}
    symbols = sorted(axis for axis in axes if isinstance(axis, str))
    if not symbols:
        raise InputError(
            f"the first axes of {first.name} are fixed: there is no batch to vary",
            hint="leave out --batch, or export it with an open batch",
        )
    return [_Sizes(int(size), {**dict.fromkeys(symbols, int(size)), **dims}) for size in sizes]


def _named(models: tuple[str, ...]) -> list[tuple[str, str]]:
    """File names, or whole paths where two files have the same name."""
    names = [Path(model).name for model in models]
    chosen = names if len(set(names)) == len(names) else list(models)
    if len(set(chosen)) != len(chosen):
        chosen = [f"{name} #{index}" for index, name in enumerate(chosen, 1)]
    return list(zip(chosen, models, strict=True))


def dimensions(texts: tuple[str, ...]) -> dict[str, int]:
    """Read `NAME=N`, several times.

    Raises:
        InputError: one is not of that form.
    """
    return dict(map(_dimension, texts))


def _dimension(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit() or int(value) < 1:
        raise InputError(f"--dim {text!r} is not NAME=N", hint="for example --dim batch=8")
    return name, int(value)


# --- what is shown -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """One batch size."""

    batch: int | None
    dims: Mapping[str, int]
    found: Comparison
    peaks: Mapping[str, int]
    profiles: Mapping[str, list[OperatorTime]]

    def tables(self, threads: int) -> list[Table]:
        return [self._times(threads), *(_operators(*item) for item in self.profiles.items())]

    def _times(self, threads: int) -> Table:
        from burnish.tools.present import size, table

        columns = ["model", "median ms", "p90", "p99", "per second", "ratio (95% interval)", ""]
        columns += ["peak memory"] if self.peaks else []
        rows = []
        for item in self.found.timings:
            times = [f"{1e3 * value:.2f}" for value in (item.median, item.p90, item.p99)]
            ratio = [f"{item.speedup:.2f} ({item.low:.2f} to {item.high:.2f})", _said(item)]
            if item is self.found.timings[0]:
                ratio = ["", ""]
            row = [item.name, *times, f"{(self.batch or 1) / item.median:.4g}", *ratio]
            rows.append([*row, size(self.peaks[item.name])] if self.peaks else row)
        title = f"{self.found.rounds} rounds in turns, {self.found.loads} loads, threads: {threads}"
        if self.dims:
            title += "; " + ", ".join(f"{name}={size}" for name, size in self.dims.items())
        return table(title if self.batch is None else f"batch {self.batch}: {title}", columns, rows)


def _said(item: Timing) -> str:
    return "cannot be told apart" if item.verdict == "same" else item.verdict


def _operators(name: str, rows: Sequence[OperatorTime]) -> Table:
    from rich.bar import Bar

    from burnish.tools.present import table

    made = table(f"{name}: time in kernels", ("operator", "nodes", "ms", "share"), ())
    made.add_column("")
    for row in rows:
        made.add_row(
            row.op_type,
            str(row.nodes),
            f"{1e3 * row.seconds:.3f}",
            f"{row.share:.1%}",
            Bar(1.0, 0.0, row.share, width=40),
        )
    return made


def _picture(path: Path, tables: Sequence[Table]) -> None:
    """Write tables as SVG."""
    import os

    from rich.console import Console

    from burnish.files import write_aside

    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=110, file=nowhere)
        console.print(*tables)
        svg = console.export_svg(title="burnish bench", unique_id="bench")
    with write_aside(path) as aside:
        aside.write_text(svg, encoding="utf-8")


def _as_dict(runs: Sequence[_Run]) -> dict[str, Any]:
    """The first batch size at the top, as there is mostly but one; all of them below `batches`."""
    data = [
        {
            "batch": run.batch,
            "dims": dict(run.dims),
            "rounds": run.found.rounds,
            "loads": run.found.loads,
            "interval": "Student's t over the logarithms of each load's ratio of medians, 95 %",
            "timings": [
                {
                    **dataclasses.asdict(item),
                    "verdict": item.verdict,
                    "per_second": (run.batch or 1) / item.median,
                    **({"peak_bytes": run.peaks[item.name]} if run.peaks else {}),
                }
                for item in run.found.timings
            ],
            "operators": {
                name: [dataclasses.asdict(row) for row in rows]
                for name, rows in run.profiles.items()
            },
        }
        for run in runs
    ]
    return {**data[0], "batches": data} if len(data) > 1 else data[0]
