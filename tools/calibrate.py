# SPDX-License-Identifier: Apache-2.0
"""`burnish calibrate MODEL`: the ranges of a model's values, into a file."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from burnish.errors import InputError
from burnish.tools.cli import debug_option

if TYPE_CHECKING:
    from burnish.passes.quant.calibration.collect import Progress
    from burnish.passes.quant.calibration.ranges import Ranges

_METHODS = ["minmax", "average", "percentile", "entropy", "mse"]


@click.command(name="calibrate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option(
    "--calib", required=True, metavar="DIR|FILE.npz|MODULE:FUNCTION", help="Sample inputs."
)
@click.option(
    "-o",
    "--output",
    help="Where to write; default MODEL.ranges.json. TensorRT's form if it ends in .cache.",
)
@click.option("--passes", default="", help="Pipeline to run first, e.g. fuse.")
@click.option("--target", default="cpu", show_default=True, help="What those optimize for.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="percentile",
    show_default=True,
    help="How ranges are found.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100),
    default=99.99,
    show_default=True,
    help="Percentage of numbers inside the range.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N samples only.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run left off.")
@click.option(
    "--every",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds between two states kept for --resume.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@debug_option
def command(
    model: str,
    calib: str,
    output: str | None,
    passes: str,
    target: str,
    method: str,
    percentile: float,
    limit: int | None,
    resume: bool,
    every: float,
    quiet: bool,
) -> None:
    """Find the range of every float value of MODEL, for `quant{ranges=FILE}` or TensorRT.

    While it runs, its state is kept beside the output, in a file that ends in .part.
    """
    from burnish.tools.present import progress, show

    started = time.perf_counter()
    path = Path(output) if output is not None else Path(f"{Path(model).stem}.ranges.json")
    _check_destination(path, Path(model))
    ranges, notes = find(
        model,
        calib,
        path.with_name(f"{path.name}.part"),
        passes=passes,
        target=target,
        method=method,
        percentile=percentile,
        limit=limit,
        resume=resume,
        every=every,
        progress=None if quiet else progress,
    )
    ranges.save(path)
    if quiet:
        return
    if ranges.adequacy is not None and ranges.adequacy.is_enough:
        show(str(ranges.adequacy))
    for line in (*notes, *ranges.warnings()):
        show(f"note: {line}")
    seconds = time.perf_counter() - started
    show(f"wrote {path}: {len(ranges.values)} ranges, {ranges.method}, in {seconds:.1f} s")


def find(
    model: str,
    calib: str,
    state: Path,
    *,
    passes: str = "",
    target: str = "cpu",
    method: str = "percentile",
    percentile: float = 99.99,
    limit: int | None = None,
    resume: bool = False,
    every: float = 30.0,
    progress: Progress | None = None,
) -> tuple[Ranges, list[str]]:
    """Calibrate a model as the command does; `state` is where an unfinished run is kept.

    Returns:
        The ranges, and what else a user should know, a line each.

    Raises:
        InputError: bad model, pipeline or samples; or `resume` with another model or other options.
    """
    from burnish import api, frontends
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.quant.calibration.collect import Checkpoint
    from burnish.passes.quant.calibration.observers import observer
    from burnish.passes.quant.calibration.ranges import calibrate, fed_to_channels, float_values
    from burnish.passes.quant.ready import is_quantized
    from burnish.passes.shapes import infer_shapes

    loaded = frontends.load(model)
    samples = CalibrationSource.open(calib, loaded.model.graph.inputs, limit=limit)
    changed = loaded.model
    if passes:
        changed = api.optimize(loaded.model, passes, target=target).model
    infer_shapes(changed)
    names = float_values(changed)
    if not names:
        raise InputError(f"{model} has no float values: there is nothing to calibrate")
    title = f"percentile {percentile:g}" if method == "percentile" else method
    asked = (loaded.digest, passes, target, title, limit, names, sorted(api.versions().items()))
    key = hashlib.sha256(repr(asked).encode()).hexdigest()
    ranges = calibrate(
        changed,
        names,
        samples,
        observer(method, percentile=percentile),
        method=title,
        means=fed_to_channels(changed),
        progress=progress,
        checkpoint=Checkpoint(state, key, resume, every),
    )
    notes = list(loaded.notes)
    quantized = is_quantized(changed)
    if quantized is not None:
        notes.append(f"the model is already quantized ({quantized}): ranges are of what is float")
    return ranges, notes


def _check_destination(path: Path, model: Path) -> None:
    """Refuse before the work what could only fail after it."""
    if path.is_dir():
        raise InputError(f"output {path} is a folder", hint="name a file")
    if not path.parent.is_dir():
        raise InputError(f"output folder {path.parent} does not exist", hint="create it")
    if path.exists() and model.exists() and path.samefile(model):
        raise InputError(f"output {path} is the input", hint="give another name")
