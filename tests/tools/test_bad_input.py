# SPDX-License-Identifier: Apache-2.0
"""Bad input to `optimize`: one line, exit code 2, nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Run = Callable[..., Any]


def files(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def _no_such_folder(model: Path) -> list[object]:
    return [model, "-o", model.parent / "none" / "o.onnx"]


def _to_a_pipe(model: Path) -> list[object]:
    os.mkfifo(model.parent / "pipe")  # stands for a device: renaming onto one would replace it
    return [model, "-o", model.parent / "pipe"]


def _from_a_pipe(model: Path) -> list[object]:
    pipe = model.parent / "pipe"
    os.mkfifo(pipe)
    os.open(pipe, os.O_RDWR)  # or whoever opens it waits for a writer
    return [pipe, "-o", model.parent / "o.onnx"]


def _truncated(model: Path) -> list[object]:
    model.write_bytes(model.read_bytes()[:-100])
    return [model]


def _not_onnx(model: Path) -> list[object]:
    model.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return [model]


def _future_opset(model: Path) -> list[object]:
    proto = onnx.load(model)
    proto.opset_import[0].version = 9999
    onnx.save(proto, model)
    return [model]


def _missing_data(model: Path) -> list[object]:
    proto = onnx.load(model)
    onnx.save(proto, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    (model.parent / "w.bin").unlink()
    return [model]


def _calib(model: Path, **arrays: np.ndarray) -> list[object]:
    folder = model.parent / "bad"
    folder.mkdir()
    if arrays:
        np.savez(folder / "0.npz", **arrays)  # type: ignore[arg-type]
    return [model, "--passes", "quant", "--calib", folder]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda m: [m.parent / "none.onnx"], "none.onnx"),
        (lambda m: [m.parent], "folder"),
        (lambda m: ["-"], "not read from standard input"),
        (lambda m: [m, "-o", "-"], "not written to standard output"),
        (_from_a_pipe, "no regular file"),
        (_not_onnx, "ONNX"),
        (_truncated, "damaged or cut short"),
        (_future_opset, "9999"),
        (_missing_data, "w.bin"),
        (lambda m: [m, "--passes", "fues"], "unknown pass 'fues'; did you mean 'fuse'?"),
        (lambda m: [m, "--passes", "prune{sparsty=1}"], "did you mean 'sparsity'?"),
        (lambda m: [m, "--passes", "prune{sparsity=2}"], "2.0 is outside float 0..1"),
        (lambda m: [m, "--passes", "fuse,"], "expected the name of a pass"),
        (lambda m: [m, "--target", "cup"], "did you mean 'cpu'?"),
        (lambda m: [m, "--disable", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--print-ir-after", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--explain", "gemm-ad"], "did you mean 'gemm-add'?"),
        (_no_such_folder, "does not exist"),
        (lambda m: [m, "-o", m.parent], "is a folder"),
        (lambda m: [m, "--calib", m.parent / "none"], "none"),
        (lambda m: _calib(m), "no "),
        (lambda m: _calib(m, z=np.zeros((1, 16), np.float32)), "no input 'z'; inputs: x"),
        (lambda m: _calib(m, x=np.zeros((1, 15), np.float32)), "15"),
        (lambda m: _calib(m, x=np.zeros((1, 16), np.int64)), "int64"),
        (lambda m: _calib(m, x=np.full((1, 16), np.nan, np.float32)), "NaN"),
        (lambda m: [m, "--verify", "sometimes"], "--verify"),
        (lambda m: [m, "--seed", -1], "--seed"),
        (lambda m: [m, "--sed", 1], "--seed"),
        (lambda m: [], "MODEL"),
        (lambda m: [m, "--max-error", "nan"], "nan"),
        (lambda m: [m, "--passes", "quant", "--max-drop", "lots"], "give one such as 1%"),
        (lambda m: [m, "--max-drop", "1%"], "put quant into the pipeline"),
        (lambda m: [m, "--best-effort"], "leave out --best-effort"),
        (lambda m: [m, "--passes", "quant", "--max-drop", "1%"], "nothing to judge by"),
        (lambda m: ["."], "is a folder"),
        (lambda m: ["/"], "is a folder"),
        (lambda m: [m, "--dry-run", "--disable", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--report", m, "--force"], "is the input"),
        (lambda m: [m, "-o", m.parent / "o", "--report", m.parent / "o"], "named twice"),
        (_to_a_pipe, "is not a regular file"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    optimize: Run, model: Path, words: Callable[[Path], list[object]], message: str
) -> None:
    given = words(model)
    before = files(model.parent)
    result = optimize(*given)
    assert result.code == 2, result
    assert message in result.err
    lines = [line for line in result.err.splitlines() if line]
    if "pipeline:" in result.err:
        assert lines[2].strip() == "^"
    else:
        assert len(lines) == 1, result.err
        assert lines[0].startswith("optimize: error: ")
    assert "Traceback" not in result.err
    assert files(model.parent) == before
