# SPDX-License-Identifier: Apache-2.0
"""Constants rounded once, and large ones not held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse import rescale
from burnish.passes.fuse.affine.after import fold_affine_after
from burnish.passes.rule import NoMatch
from burnish.testing import assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]


def test_a_product_is_rounded_once() -> None:
    array = np.random.default_rng(0).normal(size=(3000, 500)).astype(np.float32)
    factor = np.random.default_rng(1).normal(size=(3000, 1))
    made = rescale.rescaled(array, factor, (0, 1))
    assert not isinstance(made, NoMatch)
    np.testing.assert_array_equal(made.numpy(), (array * factor).astype(np.float32))


def test_a_channel_that_is_zero_is_no_underflow() -> None:
    made = rescale.rescaled(np.ones((2, 3), np.float32), np.array([[0.0], [2.0]]), (0, 1))
    assert not isinstance(made, NoMatch)
    np.testing.assert_array_equal(made.numpy(), [[0, 0, 0], [2, 2, 2]])


@pytest.mark.parametrize(
    ("dtype", "scale", "reason"),
    [
        (np.float16, 1e-8, "folding underflows"),
        (np.float32, 1e-40, "folding underflows"),
        (np.float16, 1e5, "folding overflows"),
        (np.float32, np.nan, "folding overflows"),
    ],
)
def test_what_the_type_cannot_hold_is_refused(dtype: type, scale: float, reason: str) -> None:
    made = rescale.rescaled(np.ones((2, 3), dtype), np.array([[scale], [1.0]]), (0, 1))
    assert isinstance(made, NoMatch)
    assert made.reason == reason


def test_large_weights_of_a_file_are_computed_when_read(
    freeze: Freeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescale, "LAZY_BYTES", 1000)
    model = freeze(
        "g (float[2,30] x, float[30,20] w, float[1] c) => (float[2,20] y)"
        " { t = MatMul(x, w) y = Mul(t, c) }"
    )
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=100)
    model, original = ir.load(tmp_path / "m.onnx"), ir.load(tmp_path / "m.onnx")
    run_pass(fold_affine_after, model)
    (node,) = model.graph
    assert node.inputs[1] is not None
    assert isinstance(node.inputs[1].const_value, ir.LazyTensor)
    assert_same_outputs(original, model)
