# SPDX-License-Identifier: Apache-2.0
"""Constant fills in the place of weights.

A model whose weights were taken out holds ConstantOfShape nodes where they were. What stands in a
weight's place is a weight: as a constant it can be folded into, quantized and pruned.
"""

from __future__ import annotations

import onnx_ir as ir

# Operator -> the inputs that are weights.
_SLOTS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({1, 2, 3, 4}),
    "Conv": frozenset({1, 2}),
    "ConvTranspose": frozenset({1, 2}),
    "Gemm": frozenset({1, 2}),
    "MatMul": frozenset({1}),
}
# What exporters put between weights and their user.
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MOST_VIEWS = 4


def stands_for_weights(value: ir.Value) -> bool:
    """Whether a value is used, perhaps behind some views, where a linear operator has weights."""
    reached = [value]
    for _ in range(_MOST_VIEWS):
        further: list[ir.Value] = []
        for each in reached:
            for user, index in each.uses():
                if user.domain != "":
                    continue
                if index in _SLOTS.get(user.op_type, ()):
                    return True
                if index == 0 and user.op_type in _VIEWS:
                    further += user.outputs
        reached = further
    return False
