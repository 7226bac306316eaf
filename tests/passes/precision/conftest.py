# SPDX-License-Identifier: Apache-2.0
"""Small networks with random weights, and targets that compute in narrow types."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends.target import Support, Target

Build = Callable[..., ir.Model]


class Accelerator(Target):
    """A target that has a kernel for everything in every type, as GPUs nearly do."""

    def support(
        self,
        op_type: str,
        domain: str = "",
        *,
        opset: int,
        dtype: ir.DataType | None = None,
    ) -> Support:
        return Support.KERNEL


@pytest.fixture
def accelerator() -> Target:
    """Give a target that computes in float16 and bfloat16."""
    cpu = Target.parse("cpu")
    return Accelerator("accelerator", "AcceleratorExecutionProvider", cpu.isa, cpu.max_opset)


@pytest.fixture
def build() -> Build:
    """Make a model from text, with random normal weights: `build(text, w=(8, 4))`."""

    def make(text: str, opset: int = 21, **weights: tuple[int, ...] | np.ndarray) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
        rng = np.random.default_rng(0)
        for name, given in weights.items():
            if isinstance(given, np.ndarray):
                array = given
            else:
                array = rng.normal(0, 0.1, given).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return ir.from_proto(proto)

    return make
