# SPDX-License-Identifier: Apache-2.0
"""Calibration takes no more memory for more samples, measured in processes of their own."""

from __future__ import annotations

import functools
from pathlib import Path

import onnx_ir as ir

from burnish.backends import measure
from burnish.testing import parse
from burnish.tools.bench_quant import calibrate_by_burnish


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
        measure.peak_memory(functools.partial(calibrate_by_burnish, str(path), count))
        for count in (4, 64)
    )
    assert many - few < 16e6
