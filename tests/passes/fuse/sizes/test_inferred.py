# SPDX-License-Identifier: Apache-2.0
"""Shapes of values that are in no graph yet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.rule import Builder


def test_what_was_just_built_has_its_shape() -> None:
    op = Builder({"": 23})
    x = ir.Value(name="x", shape=ir.Shape(["N", 4]), type=ir.TensorType(ir.DataType.FLOAT16))
    y = inferred(op, op.Unsqueeze(x, np.array([1])))
    assert str(y.shape) == "[N,1,4]"
    assert y.dtype == ir.DataType.FLOAT16


def test_of_an_operator_that_is_not_known_no_shape_is() -> None:
    op = Builder({"": 23})
    assert inferred(op, op.Unheard(ir.Value(name="x"), _domain="of")).shape is None
