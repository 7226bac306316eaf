# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a real model, before and after, in one table.

Fetches the PP-OCRv6 recognizer, draws lines of text, runs `optimize` with `fuse,quant` calibrated
on some of them, and measures both models on others.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from burnish.backends import measure, onnxruntime
from burnish.passes.report import ModelStats
from burnish.tools import zoo
from burnish.tools.present import progress, show, size, table

if TYPE_CHECKING:
    from rich.table import Table

MODEL = "ppocrv6-rec"
CALIBRATION_LINES = 64
EVALUATION_LINES = 600
# A line of text of ordinary length: width in pixels of the input that is timed.
TIMED_WIDTH = 320


class Row(NamedTuple):
    """One model's column of the table."""

    nodes: int
    bytes: int
    score: float


class Result(NamedTuple):
    """What the demo measured."""

    before: Row
    after: Row
    timing: measure.Comparison


def main(folder: Path) -> Result:
    """Run the demo and print its table; the models and samples are left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = zoo.fetch(MODEL)
    samples, optimized = folder / "samples", folder / "ppocrv6-rec.int8.onnx"
    write_samples(samples)
    command = [
        str(Path(sysconfig.get_path("scripts")) / "optimize"),
        *(str(source), "-o", str(optimized), "--passes", "fuse,quant", "--calib", str(samples)),
        *("--report", str(folder / "report.json")),
    ]
    show(" ".join(["$", "optimize", *command[1:]]))
    subprocess.run(command, check=True)
    before, after = row(source, "before"), row(optimized, "after")
    result = Result(before, after, time_both(source, optimized))
    show(as_table(result))
    return result


def as_table(result: Result) -> Table:
    """Put what was measured side by side."""
    before, after, timing = result
    speedup = timing["after"]
    rows = [
        ("nodes", str(before.nodes), str(after.nodes), f"{after.nodes / before.nodes:.2f}"),
        ("file", size(before.bytes), size(after.bytes), f"{after.bytes / before.bytes:.2f}"),
        (
            "latency (median)",
            f"{1e3 * timing['before'].median:.2f} ms",
            f"{1e3 * speedup.median:.2f} ms",
            f"{speedup.speedup:.2f}x faster ({speedup.low:.2f} to {speedup.high:.2f})",
        ),
        (
            f"exact match ({EVALUATION_LINES} lines)",
            f"{before.score:.3f}",
            f"{after.score:.3f}",
            f"{100 * (after.score - before.score):+.1f} points",
        ),
    ]
    return table("PP-OCRv6 rec, fuse,quant, one thread", ("", "before", "after", ""), rows)


def write_samples(folder: Path) -> None:
    """Write calibration lines as .npz files, one sample each."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.npz"):
        old.unlink()
    lines = zoo.feeds(MODEL, CALIBRATION_LINES, 0)
    for index, feeds in enumerate(progress(lines, CALIBRATION_LINES, "drawing lines")):
        arrays: dict[str, Any] = dict(feeds)
        np.savez(folder / f"{index:04d}.npz", **arrays)


def row(model: Path, label: str) -> Row:
    """Count, weigh and score one model."""
    import onnx_ir as ir

    nodes = ModelStats.of(ir.load(model)).nodes
    show(f"reading {EVALUATION_LINES} lines with the model {label} ...")
    with onnxruntime.session(model, optimize="all") as session:
        score = zoo.metric(MODEL).evaluate(session.run, split="evaluation", limit=EVALUATION_LINES)
    return Row(nodes, model.stat().st_size, score)


def time_both(before: Path, after: Path) -> measure.Comparison:
    """Time both models in turns, on one thread, on a line of ordinary length."""
    with (
        onnxruntime.session(before, optimize="all") as old,
        onnxruntime.session(after, optimize="all") as new,
    ):
        line = np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, TIMED_WIDTH))
        feeds = {"x": line.astype(np.float32)}
        return measure.compare({"before": old, "after": new}, feeds, repeats=40)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
