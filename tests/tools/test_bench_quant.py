# SPDX-License-Identifier: Apache-2.0
"""Calibration takes no more memory for more samples, measured in processes of their own."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import onnx_ir as ir

from burnish.backends.memory import peak_memory
from burnish.testing import parse
from burnish.tools import bench_quant
from burnish.tools.bench_quant import calibrate_by_burnish
from burnish.tools.benchmark import put_section


def test_memory_is_flat_in_the_number_of_samples(tmp_path: Path) -> None:
    # 8 MB of activations a sample, so that 60 samples kept would be half a gigabyte.
    text = """g (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask)
        => (float[batch,sequence,8000] y) <float[1,1,8000] w = {WEIGHTS}> {
        ids = Cast <to = 1> (input_ids)
        two = Constant <value_ints = [2]> ()
        column = Unsqueeze(ids, two)
        long = Mul(column, w)
        y = Tanh(long)
    }"""
    weights = ", ".join(str(0.001 * index % 1) for index in range(8000))
    path = tmp_path / "model.onnx"
    ir.save(parse(text.replace("WEIGHTS", weights)), path)
    few, many = (
        peak_memory(functools.partial(calibrate_by_burnish, str(path), count)) for count in (4, 64)
    )
    assert many - few < 16e6


def _row(model: str, speed: str) -> list[str]:
    return [model, "burnish `fuse,quant`", speed, *[""] * 6]


def test_one_model_is_measured_anew_and_the_others_stay(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    old = bench_quant.merged([], [_row("mnist-cnn", "2.00 (1 to 3)"), _row("ppocrv6-rec", "4.00")])
    body = "\n".join("| " + " | ".join(row) + " |" for row in [["model"], ["---"], *old])
    put_section(document, "quantization", f"## Title\n\n{body}\n\nmachine\n")
    found = bench_quant.rows_in(document, "quantization")
    assert found == old
    new = bench_quant.merged(found, [_row("mnist-cnn", "3.00 (2 to 4)")])
    assert [row[:3] for row in new] == [
        ["ppocrv6-rec", "burnish `fuse,quant`", "4.00"],
        ["mnist-cnn", "burnish `fuse,quant`", "3.00 (2 to 4)"],
        ["geometric mean", "burnish `fuse,quant`", f"{math.sqrt(12):.2f}"],
    ]
