# SPDX-License-Identifier: Apache-2.0
"""A small model with open sizes, and artefacts of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish import api
from burnish.testing import parse


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A masked mean over tokens: padding behind a mask of zeros changes nothing."""
    rng = np.random.default_rng(0)
    made = parse(
        "g (float[N,T,8] x, float[N,T,1] mask) => (float[N,8] mean, float[N,T,8] each) "
        "<int64[1] axis = {1}> { h = MatMul(x, w)  a = Identity(h)  each = Mul(a, mask) "
        "s = ReduceSum<keepdims = 0>(each, axis)  n = ReduceSum<keepdims = 0>(mask, axis) "
        "mean = Div(s, n) }",
        w=rng.standard_normal((8, 8)).astype(np.float32),
    )
    path = tmp_path / "m.onnx"
    ir.save(made, path)
    return path


@pytest.fixture
def artifact(model: Path, tmp_path: Path) -> Path:
    """An artefact of kind onnx."""
    api.optimize(model, artifact=tmp_path / "artifact")
    return tmp_path / "artifact"
