# SPDX-License-Identifier: Apache-2.0
"""Constants read as linear forms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.forms.form import Form

_LARGEST = 1 << 22  # elements of a constant that is read


def constant_form(array: np.ndarray) -> Form | None:
    """Read a constant that is one number everywhere, or grows evenly along one axis."""
    if array.dtype.kind not in "iuf" or not array.size:
        return None
    start, axes = array.flat[0], [axis for axis, size in enumerate(array.shape) if size > 1]
    if start != np.floor(start):
        return None
    if (array == start).all():
        return Form(constant=int(start))
    if len(axes) != 1:
        return None
    row = array.reshape(-1)
    step = row[1] - row[0]
    if step != np.floor(step) or not np.array_equal(row, start + step * np.arange(row.size)):
        return None
    return Form.of({axes[0] - array.ndim: int(step)}, int(start))


def small_array(value: ir.Value) -> np.ndarray | None:
    """Return the array of a constant, unless it is larger than is worth reading."""
    size = 1
    for dim in value.shape.dims if value.shape is not None else ():
        size *= dim if isinstance(dim, int) else 1
    return as_array(value) if size <= _LARGEST else None


def fill_of(node: ir.Node) -> float:
    """Return the number that a ConstantOfShape is full of."""
    value = node.attributes.get("value")
    return 0.0 if value is None else float(value.as_tensor().numpy().item())
