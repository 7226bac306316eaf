# SPDX-License-Identifier: Apache-2.0
"""`make bench-quant`: quantization beside ONNX Runtime's own, into docs/benchmarks.md."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from burnish.backends import measure
from burnish.files import write_aside
from burnish.tools.benchmark import hardware, put_section
from burnish.tools.present import show, size

_SEQUENCE = 128
_COUNTS = (64, 512)
_PEER_COUNTS = (8, 32)  # its memory grows by the sample


def calibration(folder: Path) -> list[list[str]]:
    """Peak memory of percentile calibration of every float value of a model of BERT-base's size.

    "Above the model" is what it takes beyond loading the model and running it once.
    """
    path = write_bert(folder / "bert-base.onnx")
    base = measure.inference_memory(path, dims={"batch": 1, "sequence": _SEQUENCE}).peak
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
            peak = measure.peak_memory(functools.partial(calibrate, str(path), count))
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
    from burnish.passes.quant.observers import Percentile
    from burnish.passes.quant.ranges import calibrate, float_values
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


_SECTIONS: dict[str, tuple[str, Callable[[Path], list[list[str]]]]] = {
    "calibration": ("Memory of calibration, BERT-base, 128 tokens a sample", calibration),
}


def main(wanted: Iterable[str], destination: Path) -> None:
    """Run the sections asked for (all if none) and put them into the document."""
    for name in list(wanted) or list(_SECTIONS):
        title, run = _SECTIONS[name]
        show(f"{title} ...")
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            head, *body = run(Path(folder))
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        text = f"## {title}\n\n{table}\n\n{hardware()}\n"
        show(text)
        put_section(destination, name, text)


if __name__ == "__main__":
    # Functions of `__main__` cannot be sent to the processes that are measured.
    from burnish.tools import bench_quant

    bench_quant.main(sys.argv[1:], Path(__file__).parents[1] / "docs" / "benchmarks.md")
