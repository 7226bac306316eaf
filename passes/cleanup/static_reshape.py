# SPDX-License-Identifier: Apache-2.0
"""A Reshape or Expand whose target is computed, though enough is known of it to write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import with_axes
from burnish.passes.cleanup.partial.partial import Dim, Element
from burnish.passes.rule import Builder


@dataclass(frozen=True)
class Form:
    """What a Reshape is with a constant argument.

    Attributes:
        op_type: Reshape, Unsqueeze or Squeeze.
        argument: Its target shape, or its axes.
    """

    op_type: str
    argument: tuple[int, ...]

    def build(self, op: Builder, data: ir.Value) -> ir.Value:
        """Build the node; returns its output."""
        if self.op_type == "Reshape":
            made: ir.Value = op.Reshape(data, np.array(self.argument, dtype=np.int64))
        else:
            made = with_axes(op, self.op_type, data, self.argument)
        return made


def static_form(data: ir.Value, target: Sequence[Element]) -> Form | str:
    """Return a constant form of the Reshape of `data` to a partly known shape, or why none is.

    In a constant target, a 0 copies the size from the same axis of the data, and a -1 stands for
    whatever is left. A -1 in place of a computed size makes an empty tensor fail beside a 0; where
    only axes of size 1 come or go, Unsqueeze and Squeeze say so and never fail.
    """
    dims = () if data.shape is None else data.shape.dims
    sizes = [
        _size(data, axis) if size == 0 and axis < len(dims) else size
        for axis, size in enumerate(target)
    ]
    constant = [
        size if isinstance(size, int) else 0 if _same(size, data, axis) else -1
        for axis, size in enumerate(sizes)
    ]
    invented = constant.count(-1) - sizes.count(-1)
    if constant.count(-1) <= 1 and not (invented and 0 in constant):
        return Form("Reshape", tuple(map(int, constant)))
    inserted = _left_over(sizes, _sizes(data))
    if inserted:
        return Form("Unsqueeze", inserted)
    removed = _left_over(_sizes(data), sizes)
    if removed:
        return Form("Squeeze", removed)
    return "too many sizes are unknown"


def _size(data: ir.Value, axis: int) -> Element:
    assert data.shape is not None
    dim = data.shape[axis]
    return dim if isinstance(dim, int) and dim > 0 else Dim(data, axis)


def _sizes(data: ir.Value) -> list[Element]:
    return [_size(data, axis) for axis in range(0 if data.shape is None else len(data.shape))]


def _same(size: Element, data: ir.Value, axis: int) -> bool:
    in_range = data.shape is not None and axis < len(data.shape)
    return isinstance(size, Dim) and in_range and size.same_size(data, axis)


def _equal(a: Element, b: Element) -> bool:
    if isinstance(a, Dim) and isinstance(b, Dim):
        return a.same_size(b.value, b.axis)
    return isinstance(a, int) and a == b


def _left_over(longer: Sequence[Element], shorter: Sequence[Element]) -> tuple[int, ...] | None:
    """Return the axes of size 1 by which one shape is longer than the other, if they are all."""
    axes = []
    at = 0
    for axis, size in enumerate(longer):
        if at < len(shorter) and _equal(size, shorter[at]):
            at += 1
        elif size == 1:
            axes.append(axis)
        else:
            return None
    return tuple(axes) if at == len(shorter) else None


def expands_to_itself(data: ir.Value, target: Sequence[Element]) -> bool:
    """Whether an Expand of `data` to a partly known shape is known to leave it as it is."""
    dims = _sizes(data)
    if data.shape is None or len(target) > len(dims):
        return False
    tail = dims[len(dims) - len(target) :]
    return all(size == 1 or _equal(size, dim) for size, dim in zip(target, tail, strict=True))


def swaps_last_axes(data: ir.Value, there: Sequence[Element], back: Sequence[Element]) -> bool:
    """Whether a Reshape to `there`, a swap of the last two axes, and one to `back` only swap them.

    So it is if the first Reshape merges all axes but the last two, and the second one splits them
    into what they were.
    """
    dims = _sizes(data)
    if len(dims) < 3 or len(there) != 3 or len(back) != len(dims) or 0 in (*there, *back):
        return False
    swapped = [*dims[:-2], dims[-1], dims[-2]]
    merged = all(map(_equal, there[1:], dims[-2:]))
    # A single -1 can only be the one size that is not compared.
    return merged and all(
        size == -1 or _equal(size, dim) for size, dim in zip(back, swapped, strict=True)
    )
