# SPDX-License-Identifier: Apache-2.0
"""Models with constants, written as text."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.testing import parse

Frozen = Callable[..., ir.Model]


def freeze(text: str, *, opset: int | None = None, **given: np.ndarray | float) -> ir.Model:
    """Parse a model and turn every input but `x`, `x1`, ... into a constant.

    Args:
        text: The model; a value named `v...` is drawn from 0.5 to 1.5, others from -1 to 1.
        opset: Version of the default operator set.
        given: Arrays or numbers to take instead of drawing them.
    """
    if opset is not None:
        text = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n{text}'
    model = parse(text)
    for value in [value for value in model.graph.inputs if not (value.name or "").startswith("x")]:
        assert value.name is not None
        assert value.shape is not None
        assert value.dtype is not None
        shape, name = value.shape.numpy(), value.name
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        low, high = (0.5, 1.5) if name.startswith("v") else (-1.0, 1.0)
        array = given[name] if name in given else rng.uniform(low, high, shape)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(
            np.broadcast_to(np.asarray(array), shape).astype(value.dtype.numpy()), name=name
        )
        model.graph.register_initializer(value)
    return model


@pytest.fixture(name="freeze")
def _freeze() -> Frozen:
    return freeze
