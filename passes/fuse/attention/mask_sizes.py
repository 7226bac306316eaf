# SPDX-License-Identifier: Apache-2.0
"""The rows and columns of a mask: one for each query and each key, as kernels want it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import Size, same_dim
from burnish.passes.rule import Builder, Operand


def score_sizes(q: Operand, k: Operand) -> tuple[Size, Size] | None:
    """Return how many queries and keys there are, if their rank is known."""
    return None if q.dims is None or k.dims is None else (q.dims[2], k.dims[2])


def is_sized(mask: ir.Value, q: Operand, k: Operand) -> bool:
    """Whether a mask has a row for each query and a column for each key, as kernels want it."""
    wanted = score_sizes(q, k)
    if mask.shape is None or len(mask.shape) < 2 or wanted is None:
        return False
    return all(map(same_dim, mask.shape.dims[-2:], wanted))


def sized(op: Builder, mask: ir.Value, q: Operand, k: Operand) -> ir.Value:
    """Broadcast a mask to a row for each query and a column for each key."""
    ones = np.array([1, 1])
    shape = op.Concat(ones, _length(op, q), _length(op, k), axis=0)
    return op.Expand(mask, shape)  # type: ignore[no-any-return]


def _length(op: Builder, x: Operand) -> ir.Value:
    """Ask for the third size, below a Transpose: whoever fuses that finds no other use of it."""
    node = x.value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        axis = node.attributes["perm"].as_ints()[2]
        return op.Shape(node.inputs[0], start=axis, end=axis + 1)  # type: ignore[no-any-return]
    return op.Shape(x, start=2, end=3)  # type: ignore[no-any-return]
