# SPDX-License-Identifier: Apache-2.0
"""`make bench-quant`: quantization beside ONNX Runtime's own, into docs/benchmarks.md.

`ARGS="mnist-cnn ppocrv6-rec"` measures those models alone, and leaves the others' rows.
"""

from __future__ import annotations

import contextlib
import functools
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish.api import optimize
from burnish.backends import measure, onnxruntime
from burnish.backends.census import census
from burnish.backends.memory import inference_memory, peak_memory
from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.files import write_aside
from burnish.tools import quantizers, zoo
from burnish.tools.benchmark import hardware, put_section, timed_feeds
from burnish.tools.present import show, size
from burnish.tools.zoo import Arrays

_SEQUENCE = 128
_COUNTS = (64, 512)
_PEER_COUNTS = (8, 32)  # its memory grows by the sample


def calibration(folder: Path) -> list[list[str]]:
    """Peak memory of percentile calibration of every float value of a model of BERT-base's size.

    "Above the model" is what it takes beyond loading the model and running it once.
    """
    path = write_bert(folder / "bert-base.onnx")
    base = inference_memory(path, dims={"batch": 1, "sequence": _SEQUENCE}).peak
    rows = [["calibration", "samples", "peak memory", "above the model"]]
    rows.append(["one inference, nothing observed", "1", size(base), ""])
    runs: list[tuple[str, Callable[[str, int], object], tuple[int, ...]]] = [
        ("burnish, percentile, of all values", calibrate_by_burnish, _COUNTS),
        (
            "onnxruntime, percentile, of MatMul and Gemm alone",
            calibrate_by_onnxruntime,
            _PEER_COUNTS,
        ),
    ]
    for label, calibrate, counts in runs:
        for count in counts:
            peak = peak_memory(functools.partial(calibrate, str(path), count))
            rows.append([label, str(count), size(peak), size(peak - base)])
    return rows


def write_bert(path: Path) -> Path:
    """Export BERT with the default configuration of transformers (base) and random weights."""
    with write_aside(path) as aside:
        code = f"from burnish.tools.bench_quant import _export_bert as f; f({str(aside)!r})"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return path


def _export_bert(path: str) -> None:
    import torch
    from transformers import BertConfig, BertModel

    class Bert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = BertModel(BertConfig())

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.inner(input_ids=ids, attention_mask=mask)
            return found.last_hidden_state, found.pooler_output

    torch.manual_seed(0)
    model = Bert().eval()
    ids = torch.ones((1, 8), dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    torch.onnx.export(
        model,
        (ids, ids),
        path,
        input_names=names,
        output_names=["hidden", "pooled"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def _sentences(count: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        ids = rng.integers(1000, 30000, (1, _SEQUENCE))
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def calibrate_by_burnish(path: str, count: int) -> None:
    """Find the ranges of all float values."""
    from burnish import frontends
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.quant.calibration.observers import Percentile
    from burnish.passes.quant.calibration.ranges import calibrate, float_values
    from burnish.passes.shapes import infer_shapes

    model = frontends.load(path).model
    infer_shapes(model)
    samples = CalibrationSource.from_iterable(lambda: _sentences(count), model.graph.inputs)
    calibrate(model, float_values(model), samples, Percentile)


def calibrate_by_onnxruntime(path: str, count: int) -> None:
    """Find the ranges of what matrix products take and give, with ONNX Runtime's calibrator.

    On all values it fails: "autodetected range of [inf, inf] is not finite".
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._samples = _sentences(count)

        def get_next(self) -> Any:
            return next(self._samples, None)

    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            path,
            op_types_to_calibrate=["MatMul", "Gemm"],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


_MODELS = (
    *("minilm-l6-dynamo", "minilm-l6-torchscript"),
    *("ppocrv6-rec", "ppocrv6-det", "ppocrv4-rec", "ppocrv4-det", "ppocrv2-cls"),
    *("efficientnet-lite0", "mnist-cnn", "fashion-resnet"),
)
_SAMPLES = 32
_FLOAT, _OURS = "float32", "burnish `fuse,quant`"
_HEAD = [
    "model",
    "quantized by",
    "speed",
    "metric",
    "float32",
    "int8",
    "change",
    "size",
    "executed",
]
_MEAN = "geometric mean"
_IN_A_ROW = 5
"""Runs of a variant in its turn: caches hold what it needs, as they do where it is deployed."""

Variants = dict[str, Path | str]
"""Name -> file, or why there is none. The first is the model as it came."""


class InARow:
    """A session that runs several times where it is asked to run once."""

    def __init__(self, session: onnxruntime.Session) -> None:
        self.session = session

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run, and return the last outputs."""
        for _ in range(_IN_A_ROW - 1):
            self.session.run(feeds, outputs)
        return self.session.run(feeds, outputs)


def model_rows(name: str, folder: Path) -> list[list[str]]:
    """Quantize a labelled model of the zoo by us and by the peer; a row for each way.

    All are calibrated on the same samples, none of which the metric sees; speed is with one thread
    and all of the runtime's own optimizations, every variant in turns of several runs.
    """
    variants = quantized(name, folder)
    return table(name, variants, timed(name, variants), judged(name, variants))


def quantized(name: str, folder: Path) -> Variants:
    """Quantize a model of the zoo in each way."""
    source = zoo.fetch(name)

    def samples() -> Iterable[Arrays]:
        return zoo.feeds(name, _SAMPLES)

    ways: dict[str, Callable[[Path], object]] = {
        _OURS: lambda path: optimize(source, "fuse,quant", output=path, calibration=samples),
        "onnxruntime static, u8s8": functools.partial(
            quantizers.static, source, samples=samples, activations="uint8"
        ),
        "onnxruntime static, s8s8": functools.partial(
            quantizers.static, source, samples=samples, activations="int8"
        ),
        "onnxruntime dynamic": functools.partial(quantizers.dynamic, source),
    }
    found: Variants = {_FLOAT: source}
    for index, (way, quantize) in enumerate(ways.items()):
        path = folder / f"{name}.{index}.onnx"
        try:
            quantize(path)
            onnxruntime.session(path, optimize="all").close()
            found[way] = path
        except Exception as error:
            if way == _OURS:
                raise
            found[way] = f"fails: {type(error).__name__}"
    return found


def timed(name: str, variants: Variants, budget: float = 40) -> measure.Comparison:
    """Time the variants that there are, in turns of several runs, loaded anew several times."""
    loads = {
        way: functools.partial(_in_a_row, path)
        for way, path in variants.items()
        if isinstance(path, Path)
    }
    with loads[_FLOAT]() as runs:
        feeds = timed_feeds(name, runs.session)
    return measure.compare_loads(loads, feeds, loads=6, repeats=200, warmup=1, budget=budget)


@contextlib.contextmanager
def _in_a_row(path: Path) -> Iterator[InARow]:
    with onnxruntime.session(path, optimize="all") as session:
        yield InARow(session)


def judged(name: str, variants: Variants) -> dict[str, float]:
    """Score the variants that there are by the model's own metric."""
    metric = zoo.metric(name)
    found = {}
    for way, path in variants.items():
        if isinstance(path, Path):
            with onnxruntime.session(path, optimize="all") as session:
                found[way] = metric.evaluate(session.run)
    return found


def table(
    name: str, variants: Variants, speeds: measure.Comparison, scores: Mapping[str, float]
) -> list[list[str]]:
    """Return a row for each variant but the first."""
    rows = []
    whole = _bytes(variants[_FLOAT])
    before = scores[_FLOAT]
    for way, path in variants.items():
        if way == _FLOAT:
            continue
        if isinstance(path, str):
            rows.append([name, way, path, *[""] * 6])
            continue
        timing = speeds[way]
        rows.append(
            [
                name,
                way,
                f"{timing.speedup:.2f} ({timing.low:.2f} to {timing.high:.2f})",
                zoo.metric(name).name,
                f"{before:.4f}",
                f"{scores[way]:.4f}",
                f"{(scores[way] - before) / before:+.1%}",
                f"{_bytes(path) / whole:.3f}",
                executed(path),
            ]
        )
    return rows


def executed(path: Path) -> str:
    """Say how many operators the runtime executes in int8, of which most, and how many in all."""
    found = census(path, Target.parse("cpu")).executed
    int8: Counter[str] = Counter()
    for operator, count in found.ops.items():
        name = operator.rpartition("::")[2]
        if _INT8.match(name):
            int8[name] += count
    most = ", ".join(f"{count} {name}" for name, count in int8.most_common(3))
    return f"{int8.total()} of {found.nodes}" + (f": {most}" if most else "")


_INT8 = re.compile(r"QLinear|QGemm|QAttention|Nhwc|\w+Integer|DynamicQuantizeMatMul|MatMulNBits")


def _bytes(path: Path | str) -> int:
    assert isinstance(path, Path)
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def merged(old: Iterable[list[str]], new: list[list[str]]) -> list[list[str]]:
    """Put new rows in the place of those of the same models, and the geometric mean behind all."""
    anew = {row[0] for row in new}
    rows = [row for row in old if row[0] in _MODELS and row[0] not in anew] + new
    rows.sort(key=lambda row: _MODELS.index(row[0]))
    gains = [float(row[2].split()[0]) for row in rows if row[1] == _OURS]
    mean = f"{statistics.geometric_mean(gains):.2f}"
    return [*rows, [_MEAN, _OURS, mean, *[""] * 6]]


def rows_in(document: Path, section: str) -> list[list[str]]:
    """Return the rows of a section's table as it stands in the document, without its head."""
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    inside = text.partition(f"<!-- begin {section} -->")[2].partition("<!-- end")[0]
    lines = [line for line in inside.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _put(destination: Path, name: str, title: str, rows: list[list[str]]) -> None:
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text = f"## {title}\n\n{table}\n\n{hardware()}\n"
    show(text)
    put_section(destination, name, text)


def main(wanted: Iterable[str], destination: Path) -> None:
    """Measure models (all if none are named; `calibration` is the memory of that).

    Each model's rows are put into the document as soon as they are there.

    Raises:
        InputError: there is no such model.
    """
    names = list(wanted) or [*_MODELS, "calibration"]
    for name in names:
        if name not in (*_MODELS, "calibration"):
            raise InputError(f"{name!r} is not measured", hint=f"there are: {', '.join(_MODELS)}")
    for name in names:
        show(f"{name} ...")
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            if name == "calibration":
                title = "Memory of calibration, BERT-base, 128 tokens a sample"
                _put(destination, name, title, calibration(Path(folder)))
            else:
                rows = merged(rows_in(destination, _SECTION), model_rows(name, Path(folder)))
                _put(destination, _SECTION, _TITLE, [_HEAD, *rows])


_SECTION = "quantization"
_TITLE = "Quantization: speed and accuracy beside ONNX Runtime's own"


if __name__ == "__main__":
    # Functions of `__main__` cannot be sent to the processes that are measured.
    from burnish.tools import bench_quant

    bench_quant.main(sys.argv[1:], Path(__file__).parents[1] / "docs" / "benchmarks.md")
