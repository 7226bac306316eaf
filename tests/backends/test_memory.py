# SPDX-License-Identifier: Apache-2.0
"""Peak memory of commands, functions and models."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

from burnish.backends.memory import inference_memory, peak_memory
from burnish.backends.onnxfile import save
from burnish.errors import BurnishError
from burnish.testing import parse

MB = 2**20


def test_peak_memory_of_a_command_is_its_own() -> None:
    ballast = np.ones(40 * MB)  # 320 MB here must not show there
    small, large = (
        peak_memory([sys.executable, "-c", f"x = b'x' * {size * MB}"]) for size in (1, 101)
    )
    assert small < ballast.nbytes / 4
    assert 95 * MB < large - small < 105 * MB


def test_peak_memory_of_a_function_is_its_own() -> None:
    ballast = np.ones(40 * MB)
    small, large = (peak_memory(functools.partial(np.ones, size * MB)) for size in (1, 14))
    assert small < ballast.nbytes / 4
    assert 99 * MB < large - small < 109 * MB  # 13 * 8


def test_what_the_work_prints_does_not_matter(capfd: pytest.CaptureFixture[str]) -> None:
    assert peak_memory(functools.partial(print, "hello")) > MB
    assert peak_memory(["echo", "12"]) > MB
    assert "12" not in capfd.readouterr().out


def test_work_that_fails_is_an_error_with_its_reason() -> None:
    with pytest.raises(BurnishError, match=r"exit 3\): no error output"):
        peak_memory([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(BurnishError, match="ValueError: could not convert"):
        peak_memory(functools.partial(float, "x"))
    with pytest.raises(BurnishError, match="FileNotFoundError"):
        peak_memory(["no-such-command-anywhere"])


def test_memory_of_a_model_grows_with_its_weights(tmp_path: Path) -> None:
    added = []
    for rows in (1000, 30_000):
        text = "g (float[n,256] x) => (float[m,256] y) { y = Concat<axis=0>(x, w) }"
        model = parse(text, w=np.ones((rows, 256), np.float32))
        path = tmp_path / f"{rows}.onnx"
        save(model, path)
        added.append(inference_memory(path, dims={"n": 2}).added)
    assert added[1] - added[0] > 29_000 * 1024  # the weight and its copy in the output
    with pytest.raises(BurnishError, match=r"none\.onnx: no such file"):
        inference_memory(tmp_path / "none.onnx")
