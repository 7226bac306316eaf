# SPDX-License-Identifier: Apache-2.0
"""What the models of several tests of affine functions share."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

Freeze = Callable[..., ir.Model]

BATCH_NORM = "float[6] g, float[6] b, float[6] m, float[6] v"
"""Scale, shift, mean and variance of six channels."""


def with_dtypes(cases: dict[str, tuple[str, list[str]]]) -> list[tuple[str, str]]:
    """Pair cases with the types the runtime has kernels for: no convolution of float64."""
    return [
        (case, dtype)
        for case, (body, _) in cases.items()
        for dtype in ("float", "float16", "double")
        if dtype != "double" or "Conv" not in body
    ]
