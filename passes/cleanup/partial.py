# SPDX-License-Identifier: Apache-2.0
"""What is known of a shape computation whose result is not constant as a whole.

Exporters compute shapes in the graph: Shape, then Gather, Mul, Concat, and a Reshape takes the
result. Each element is followed by itself, because most are known even where a batch size is not.
Only scalars and vectors are followed: that is what shapes are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

_MAX_ELEMENTS = 64

FOLLOWED = frozenset(
    {"Shape", "Size", "Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Slice"}
    | {"Concat", "Add", "Sub", "Mul", "Equal", "Where"}
)
"""Operators that `follow` knows."""


@dataclass(frozen=True)
class Dim:
    """An element that is the size of an axis of a value.

    Attributes:
        value: Whose axis it is.
        axis: Which one, from 0.
    """

    value: ir.Value
    axis: int

    @property
    def symbol(self) -> str | None:
        """The name the axis' size has in the model, if it has one."""
        shape = self.value.shape
        dim = None if shape is None else shape[self.axis]
        return dim.value if isinstance(dim, ir.SymbolicDim) else None

    def same_size(self, value: ir.Value, axis: int) -> bool:
        """Whether an axis of another value is known to have this size."""
        if value is self.value and axis == self.axis:
            return True
        return self.symbol is not None and self.symbol == Dim(value, axis).symbol


Element = int | bool | Dim | None  # None: nothing is known


@dataclass(frozen=True)
class Partial:
    """Elements of a scalar or vector of whole numbers or booleans.

    Attributes:
        elements: In order.
        scalar: It has rank 0, and one element.
        dtype: Element type.
    """

    elements: tuple[Element, ...]
    scalar: bool
    dtype: np.dtype[Any]

    @property
    def array(self) -> np.ndarray | None:
        """The array, if every element is known."""
        if any(element is None or isinstance(element, Dim) for element in self.elements):
            return None
        array = np.array(self.elements, dtype=self.dtype)
        return array.reshape(()) if self.scalar else array


def partial_of(array: np.ndarray) -> Partial | None:
    """Return a small constant of whole numbers or booleans in this form."""
    if array.ndim > 1 or array.size > _MAX_ELEMENTS or array.dtype.kind not in "iub":
        return None
    return Partial(tuple(array.reshape(-1).tolist()), array.ndim == 0, array.dtype)


def follow(node: ir.Node, known: Mapping[ir.Value, Partial]) -> Partial | None:
    """Return what is known of the only output of a node, or None.

    Args:
        node: A node of the default domain, all of whose attributes have values.
        known: What is known of its inputs; constants included.
    """
    if node.op_type == "Shape":
        return _shape(node)
    if node.op_type == "Size":
        return _size(node)
    inputs = [None if value is None else known.get(value) for value in node.inputs]
    first = inputs[0] if inputs else None
    if first is None:
        return None
    match node.op_type:
        case "Identity":
            return first
        case "Cast":
            return _cast(node, first)
        case "Unsqueeze":
            return _unsqueeze(node, first, inputs)
        case "Squeeze":
            single = not first.scalar and len(first.elements) == 1
            return Partial(first.elements, True, first.dtype) if single else None
        case "Reshape":
            return _reshape(first, inputs[1])
        case "Gather":
            return _gather(first, inputs[1])
        case "Slice":
            return _slice(node, inputs)
        case "Concat":
            return _concat(inputs)
        case "Add" | "Sub" | "Mul" | "Equal":
            return _binary(node.op_type, first, inputs[1])
        case "Where":
            return _where(first, inputs[1], inputs[2])
    return None


def _shape(node: ir.Node) -> Partial | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    # A static size is the contract of whoever declared it, as the runtime takes it too.
    elements = tuple(
        dim if isinstance(dim, int) else Dim(value, axis)
        for axis, dim in enumerate(value.shape.dims)
    )
    window = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end"))
    return Partial(elements[window], False, np.dtype(np.int64))


def _size(node: ir.Node) -> Partial | None:
    value = node.inputs[0]
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    size = 1
    for dim in value.shape.numpy():
        size *= dim
    return Partial((size,), True, np.dtype(np.int64))


def _cast(node: ir.Node, x: Partial) -> Partial | None:
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


def _fits(elements: tuple[Element, ...], dtype: np.dtype[Any]) -> bool:
    if dtype.kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return all(limits.min <= item <= limits.max for item in elements if isinstance(item, int))


def _unsqueeze(node: ir.Node, x: Partial, inputs: list[Partial | None]) -> Partial | None:
    if len(inputs) > 1:
        axes = 0 if inputs[1] is None else len(inputs[1].elements)
    else:
        axes = len(node.attributes["axes"].as_ints())
    return Partial(x.elements, False, x.dtype) if x.scalar and axes == 1 else None


def _reshape(x: Partial, shape: Partial | None) -> Partial | None:
    if shape is None:
        return None
    match shape.elements:
        case ():
            return Partial(x.elements, True, x.dtype) if len(x.elements) == 1 else None
        case (int(dim),) if dim in (-1, len(x.elements)):
            return Partial(x.elements, False, x.dtype)
    return None


def _gather(x: Partial, indices: Partial | None) -> Partial | None:
    if x.scalar or indices is None or indices.array is None:
        return None
    count = len(x.elements)
    picked = [int(index) for index in indices.array.reshape(-1)]
    if not all(-count <= index < count for index in picked):
        return None
    return Partial(tuple(x.elements[index] for index in picked), indices.scalar, x.dtype)


def _slice(node: ir.Node, inputs: list[Partial | None]) -> Partial | None:
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


def _concat(inputs: list[Partial | None]) -> Partial | None:
    elements: list[Element] = []
    dtype: np.dtype[Any] | None = None
    for item in inputs:
        if item is None or item.scalar:
            return None
        elements += item.elements
        dtype = item.dtype
    if dtype is None or len(elements) > _MAX_ELEMENTS:
        return None
    return Partial(tuple(elements), False, dtype)


def _binary(op_type: str, a: Partial, b: Partial | None) -> Partial | None:
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


def _where(condition: Partial, x: Partial | None, y: Partial | None) -> Partial | None:
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
