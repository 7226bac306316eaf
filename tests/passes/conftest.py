# SPDX-License-Identifier: Apache-2.0
"""Small networks with random weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import parse

Build = Callable[..., ir.Model]


@pytest.fixture
def build() -> Build:
    """Make a model from text, with random normal weights: `build(text, w=(8, 3, 3, 3), b=(8,))`.

    Weights are scaled by the root of their fan-in so that activations keep their size.
    """

    def make(text: str, opset: int = 21, **weights: tuple[int, ...] | np.ndarray) -> ir.Model:
        rng = np.random.default_rng(0)

        def draw(shape: tuple[int, ...]) -> np.ndarray:
            fan_in = int(np.prod(shape[1:] if len(shape) > 2 else shape[:-1])) or 1
            return rng.normal(0, fan_in**-0.5, shape).astype(np.float32)

        arrays = {
            name: given if isinstance(given, np.ndarray) else draw(given)
            for name, given in weights.items()
        }
        return parse(text, opset, **arrays)

    return make
