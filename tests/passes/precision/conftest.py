# SPDX-License-Identifier: Apache-2.0
"""Targets that compute in narrow types."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.backends.kernels import Support
from burnish.backends.target import Target


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
