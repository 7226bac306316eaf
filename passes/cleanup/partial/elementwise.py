# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on elements, as far as they are known."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.partial.partial import Dim, Element, Partial


def cast(node: ir.Node, x: Partial) -> Partial | None:
    """Follow Cast between whole numbers that hold the elements."""
    target = ir.DataType(node.attributes["to"].as_int()).numpy()
    if target.kind not in "iu" or x.dtype.kind not in "iu":
        return None
    if not _fits(x.elements, target):
        return None
    # A size that does not fit the narrower type would wrap; nothing that large can be allocated
    # in 32 bits and up.
    if target.itemsize < 4 and any(isinstance(element, Dim) for element in x.elements):
        return None
    return Partial(x.elements, x.scalar, target)


def combined(op_type: str, a: Partial, b: Partial | None) -> Partial | None:
    """Follow Add, Sub, Mul or Equal."""
    if b is None:
        return None
    count = max(len(a.elements), len(b.elements))
    if {len(a.elements), len(b.elements)} - {1, count}:
        return None
    left = a.elements * (count if len(a.elements) == 1 else 1)
    right = b.elements * (count if len(b.elements) == 1 else 1)
    compute = _equal if op_type == "Equal" else partial(_arithmetic, op_type)
    elements = tuple(compute(x, y) for x, y in zip(left, right, strict=True))
    dtype = np.dtype(np.bool_) if op_type == "Equal" else a.dtype
    if not _fits(elements, dtype):
        return None
    return Partial(elements, a.scalar and b.scalar, dtype)


def selected(condition: Partial, x: Partial | None, y: Partial | None) -> Partial | None:
    """Follow Where."""
    chosen = condition.elements
    if x is None or y is None:
        return None
    count = max(len(chosen), len(x.elements), len(y.elements))
    if {len(chosen), len(x.elements), len(y.elements)} - {1, count}:
        return None
    spread = [item * (count if len(item) == 1 else 1) for item in (chosen, x.elements, y.elements)]
    elements = tuple(
        (a if c else b) if isinstance(c, bool) else (a if a == b else None)
        for c, a, b in zip(*spread, strict=True)
    )
    return Partial(elements, condition.scalar and x.scalar and y.scalar, x.dtype)


def _equal(x: Element, y: Element) -> Element:
    if isinstance(x, int) and isinstance(y, int):
        return x == y
    for dim, number in ((x, y), (y, x)):
        if isinstance(dim, Dim) and isinstance(number, int) and number < 0:
            return False  # no axis has a negative size
    if isinstance(x, Dim) and isinstance(y, Dim) and x.same_size(y.value, y.axis):
        return True
    return None


def _arithmetic(op_type: str, x: Element, y: Element) -> Element:
    if isinstance(x, int) and isinstance(y, int):
        return {"Add": x + y, "Sub": x - y, "Mul": x * y}[op_type]
    neutral = 1 if op_type == "Mul" else 0
    if y == neutral:
        return x
    return y if x == neutral and op_type != "Sub" else None


def _fits(elements: tuple[Element, ...], dtype: np.dtype[Any]) -> bool:
    if dtype.kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return all(limits.min <= item <= limits.max for item in elements if isinstance(item, int))
