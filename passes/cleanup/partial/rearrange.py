# SPDX-License-Identifier: Apache-2.0
"""Elements that are picked and put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.partial.partial import MAX_ELEMENTS, Element, Partial


def unsqueezed(node: ir.Node, x: Partial, inputs: list[Partial | None]) -> Partial | None:
    """Follow Unsqueeze: a number becomes a vector."""
    if len(inputs) > 1:
        axes = 0 if inputs[1] is None else len(inputs[1].elements)
    else:
        axes = len(node.attributes["axes"].as_ints())
    return Partial(x.elements, False, x.dtype) if x.scalar and axes == 1 else None


def reshaped(x: Partial, shape: Partial | None) -> Partial | None:
    """Follow Reshape between a number and a vector."""
    if shape is None:
        return None
    match shape.elements:
        case ():
            return Partial(x.elements, True, x.dtype) if len(x.elements) == 1 else None
        case (int(dim),) if dim in (-1, len(x.elements)):
            return Partial(x.elements, False, x.dtype)
    return None


def gathered(x: Partial, indices: Partial | None) -> Partial | None:
    """Follow Gather of known indices."""
    if x.scalar or indices is None or indices.array is None:
        return None
    count = len(x.elements)
    picked = [int(index) for index in indices.array.reshape(-1)]
    if not all(-count <= index < count for index in picked):
        return None
    return Partial(tuple(x.elements[index] for index in picked), indices.scalar, x.dtype)


def sliced(node: ir.Node, inputs: list[Partial | None]) -> Partial | None:
    """Follow Slice of known bounds."""
    x, *rest = inputs
    if x is None or x.scalar:
        return None
    if not rest:  # operator sets before 10
        start, end = (node.attributes[name].as_ints()[0] for name in ("starts", "ends"))
        return Partial(x.elements[start:end], False, x.dtype)
    arrays = [None if item is None else item.array for item in rest]
    given = [value is not None for value in node.inputs[1:]]
    if any(there and array is None for there, array in zip(given, arrays, strict=True)):
        return None
    starts, ends, _, steps = (*arrays, None, None)[:4]
    if starts is None or ends is None:
        return None
    start, end = int(starts.item()), int(ends.item())
    step = 1 if steps is None else int(steps.item())
    if step < 0 and start < -len(x.elements):  # ONNX takes the first element, Python none
        return None
    return Partial(x.elements[start:end:step], False, x.dtype)


def concatenated(inputs: list[Partial | None]) -> Partial | None:
    """Follow Concat of vectors."""
    elements: list[Element] = []
    dtype: np.dtype[Any] | None = None
    for item in inputs:
        if item is None or item.scalar:
            return None
        elements += item.elements
        dtype = item.dtype
    if dtype is None or len(elements) > MAX_ELEMENTS:
        return None
    return Partial(tuple(elements), False, dtype)
