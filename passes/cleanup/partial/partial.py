# SPDX-License-Identifier: Apache-2.0
"""Scalars and vectors of which not all elements are known: shapes are made of such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

MAX_ELEMENTS = 64
"""Longer vectors are no shapes."""


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
    if array.ndim > 1 or array.size > MAX_ELEMENTS or array.dtype.kind not in "iub":
        return None
    return Partial(tuple(array.reshape(-1).tolist()), array.ndim == 0, array.dtype)
