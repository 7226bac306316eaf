# SPDX-License-Identifier: Apache-2.0
"""What is said of lossy passes that changed nothing, nothing that shows, or very much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.testing import parse


@dataclass(frozen=True)
class LossyScale(Pass):
    """Multiplies the weight by a factor, on purpose."""

    name: ClassVar[str] = "lossy-scale"
    lossless: ClassVar[bool] = False
    factor: float = option(1.0, help="factor")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        value = model.graph.initializers["w"]
        assert value.const_value is not None
        with ctx.rewrite("scale", value) as go:
            if go:
                scaled = value.const_value.numpy() * np.float32(self.factor)
                value.const_value = ir.tensor(scaled, name="w")


@dataclass(frozen=True)
class Reluctant(LossyScale):
    """Finds a reason not to."""

    name: ClassVar[str] = "reluctant"

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        ctx.refuse("scale", next(iter(model.graph)), "too small to matter")


def _warnings(*passes: Pass, samples: list[dict[str, np.ndarray]] | None = None) -> list[str]:
    model = parse("g (float[3] x) => (float[3] y) <float w = {3.0}> { y = Mul(x, w) }")
    return burnish.optimize(model, list(passes), calibration=samples).report.warnings


_ZERO = {"x": np.zeros(3, np.float32)}
_ONE = {"x": np.ones(3, np.float32)}


def test_a_moderate_change_needs_no_remark() -> None:
    assert _warnings(LossyScale(1.05)) == []
    assert _warnings() == []


def test_that_nothing_was_changed_is_said_with_the_reason() -> None:
    assert _warnings(Reluctant()) == [
        "the lossy passes changed nothing: too small to matter (1); --explain shows where"
    ]
    assert _warnings(Reluctant(), LossyScale(1.05)) == []


def test_a_change_that_no_sample_reaches_is_not_called_a_success() -> None:
    assert _warnings(LossyScale(2.0), samples=[_ZERO]) == [
        "the outputs are the same in spite of what lossy passes changed: "
        "the calibration samples may not reach it"
    ]
    (line,) = _warnings(LossyScale(1.0))
    assert line.endswith("random inputs may not reach it; --calib gives it samples that fit")


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (None, "on random inputs, which real ones may be unlike: give --calib, or measure"),
        ([_ONE], "on the calibration samples: give --max-error, or measure"),
    ],
)
def test_a_large_change_is_said(samples: list[dict[str, np.ndarray]] | None, said: str) -> None:
    (line,) = _warnings(LossyScale(1.5), samples=samples)
    assert line.startswith("lossy passes changed the outputs by 50% (relative RMS)")
    assert said in line
