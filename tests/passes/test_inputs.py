# SPDX-License-Identifier: Apache-2.0
"""Sizes of values on the inputs that a model is measured for."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.passes.inputs import Sample
from burnish.passes.part import CannotMeasure


def _value(*dims: int | str) -> ir.Value:
    return ir.Value(name="a", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))


def test_sizes_are_computed() -> None:
    assert Sample({"N": 2, "T": 300}).shape(_value("N", "(T - 127) // 384 + 1", 8)) == (2, 1, 8)


def test_inputs_that_are_too_short_cannot_be_measured() -> None:
    """A convolution that is longer than its input has no output."""
    with pytest.raises(CannotMeasure, match="too small"):
        Sample({"T": 100}).shape(_value("(T - 127) // 384 - 1"))
