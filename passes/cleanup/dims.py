# SPDX-License-Identifier: Apache-2.0
"""Comparing shapes that are partly symbolic."""

from __future__ import annotations

import onnx_ir as ir

Size = int | ir.SymbolicDim


def same_dim(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal: the same number, or the same symbol."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.value is not None and (a.value == b.value or _same_sum(a.value, b.value or ""))


def _same_sum(a: str, b: str) -> bool:
    """Whether two sizes are the same sum in another order."""
    if len(a) != len(b) or "+" not in a or "(" in a:
        return False
    return sorted(a.split(" + ")) == sorted(b.split(" + "))


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values are known to have the same shape."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(map(same_dim, a.shape.dims, b.shape.dims))


def keeps_shape(x: ir.Value, constant: ir.Value) -> bool:
    """Whether what broadcasts x and a constant has the shape of x: the constant adds no size."""
    if constant.shape is not None and not constant.shape.dims:
        return True
    if x.shape is None or constant.shape is None or len(constant.shape) > len(x.shape):
        return False
    pairs = zip(reversed(constant.shape.dims), reversed(x.shape.dims), strict=False)
    return all(size == 1 or same_dim(size, dim) for size, dim in pairs)


def target_of(data: ir.Value, result: ir.Value) -> list[int] | str:
    """Return the constant target that reshapes `data` to the shape of `result`, or why not.

    A 0 copies the size from the same axis of the data, and a -1 stands for whatever is left.
    Both together would fail on an empty tensor, so that is refused.
    """
    if data.shape is None or result.shape is None:
        return "the shape is not known"
    before, after = data.shape.dims, result.shape.dims
    target: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            if dim == 0:
                return "a size of 0 would be read as 'copy'"
            target.append(dim)
        else:
            target.append(0 if axis < len(before) and same_dim(before[axis], dim) else -1)
    if target.count(-1) > (0 if 0 in target else 1):
        return "too many sizes are unknown"
    return target
