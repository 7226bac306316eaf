# SPDX-License-Identifier: Apache-2.0
"""Gathering everything in order is gathering nothing.

Exporters write an index by several ranges, such as `mask[batch[:, None], position[None, :]]`, as
the indices of all elements, and gather by them. Where each range counts through a whole axis, the
result is the tensor itself with axes of size 1 between. Every model of transformers 5 has one for
its mask: a dozen operators.

An index is read as a sum of ranges along axes, each times a factor: `i * width + j` counts through
a matrix row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of, with_axes
from burnish.passes.cleanup.partial.partial import Element
from burnish.passes.constant import scalar_of
from burnish.passes.fuse.attention.heads import elements_of, is_size_of
from burnish.passes.fuse.one_size import one_size
from burnish.passes.fuse.picked_rows import gather_of_rows
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

_DEPTH = 10


@dataclass(frozen=True)
class Count:
    """A range from 0 in steps of 1 along an axis.

    Attributes:
        axis: The axis, from 0.
        size: How far it counts.
        factors: What it is multiplied by; sizes and numbers other than 1.
    """

    axis: int
    size: Element
    factors: tuple[Element, ...] = ()


Counts = tuple[Count, ...]


def counts_of(value: ir.Value | None, depth: int = _DEPTH) -> Counts | None:
    """Read a value as a sum of counts along different axes; it is constant along the others."""
    node = None if value is None else value.producer()
    if value is None or value.shape is None or node is None or node.domain != "" or depth == 0:
        return None
    rank = len(value.shape)
    if node.op_type == "Range":
        start, limit, step = node.inputs
        size = None if limit is None else elements_of(limit)
        if scalar_of(start) != 0 or scalar_of(step) != 1 or size is None:
            return None
        return (Count(0, size[0]),)
    if node.op_type == "Mul":
        return _scaled(node.inputs, rank, depth)
    if node.op_type == "Add":
        left, right = (_within(item, rank, depth) for item in node.inputs)
        if left is None or right is None or {c.axis for c in left} & {c.axis for c in right}:
            return None
        return left + right
    if node.op_type in ("Identity", "Cast"):
        wide = value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        return counts_of(node.inputs[0], depth - 1) if wide else None
    if node.op_type == "Unsqueeze":
        found, axes = counts_of(node.inputs[0], depth - 1), ints_of(node, "axes", 1)
        if found is None or axes is None:
            return None
        added = {axis % rank for axis in axes}
        places = [axis for axis in range(rank) if axis not in added]
        return tuple(Count(places[c.axis], c.size, c.factors) for c in found)
    if node.op_type == "Expand":
        found = _within(node.inputs[0], rank, depth)
        whole = found is not None and all(is_size_of(c.size, value, c.axis) for c in found)
        return found if whole else None
    return None


def _within(value: ir.Value | None, rank: int, depth: int) -> Counts | None:
    """Read an operand that broadcasts to more axes."""
    found = counts_of(value, depth - 1)
    if found is None or value is None or value.shape is None:
        return None
    more = rank - len(value.shape)
    return tuple(Count(c.axis + more, c.size, c.factors) for c in found)


def _scaled(inputs: Sequence[ir.Value | None], rank: int, depth: int) -> Counts | None:
    for value, other in (inputs, inputs[::-1]):
        found = _within(value, rank, depth)
        factor = None if other is None else elements_of(other)
        if found is not None and factor is not None and len(factor) == 1:
            more = () if factor[0] == 1 else (factor[0],)
            return tuple(Count(c.axis, c.size, c.factors + more) for c in found)
    return None


@rule(opset=(11, None))
def gather_all(op: Any, x: Any, index: Any) -> Any:
    """Gather(Flatten(x), all of its indices in order) -> Unsqueeze(x); GatherND likewise."""
    return op.GatherND(x, index, batch_dims=0)


@gather_all.also
def _(op: Any, x: Any, index: Any) -> Any:
    flat = op.one_of("Flatten", "Reshape")(x, _more=True, _bind="flat", _shared=True)
    return op.Gather(flat, index, axis=0)


@gather_all.rewrite
def _(op: Builder, x: Operand, index: Operand, flat: ir.Node | None) -> Replacement:
    if x.dims is None or index.dims is None or not x.dims:
        return NoMatch("a rank is unknown")
    rank = len(index.dims)
    if flat is None:
        rank -= 1
        counts = _components(index.value, rank)
        factors: list[list[int]] = [[] for _ in x.dims]
    else:
        shape = flat.outputs[0].shape
        if shape is None or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            return NoMatch("not all of it is in one row")
        counts = counts_of(index.value)
        factors = [list(range(axis + 1, len(x.dims))) for axis in range(len(x.dims))]
    if counts is None:
        return NoMatch("the indices do not count")
    ordered = sorted(counts, key=lambda count: count.axis) if flat is not None else list(counts)
    if [count.axis for count in ordered] != sorted({count.axis for count in ordered}):
        return NoMatch("the axes are not in order")
    if len(ordered) != len(x.dims) or not all(
        is_size_of(count.size, x.value, axis) and _is_product(count.factors, x.value, factors[axis])
        for axis, count in enumerate(ordered)
    ):
        return NoMatch("the indices do not count through all of it")
    kept = {count.axis for count in ordered}
    others = [axis for axis in range(rank) if axis not in kept]
    if any(index.dims[axis] != 1 for axis in others):
        return NoMatch("the result repeats it")
    if flat is not None and len(flat.outputs[0].shape or ()) == 2:
        others.append(rank)
    return with_axes(op, "Unsqueeze", x, others) if others else op.Identity(x)


def _components(value: ir.Value, rank: int) -> Counts | None:
    """Read indices that are joined along the last axis, one count each."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.domain != "":
        return None
    if node.attributes["axis"].as_int() not in (-1, rank):
        return None
    found = [counts_of(part) for part in node.inputs]
    if any(counts is None or len(counts) != 1 for counts in found):
        return None
    return tuple(counts[0] for counts in found if counts)


def _is_product(factors: Sequence[Element], value: ir.Value, axes: Sequence[int]) -> bool:
    """Whether factors are the sizes of axes of a value, in any order."""
    left = list(axes)
    for factor in factors:
        axis = next((axis for axis in left if is_size_of(factor, value, axis)), None)
        if axis is None:
            return False
        left.remove(axis)
    assert value.shape is not None
    return all(value.shape[axis] == 1 for axis in left)


@dataclass(frozen=True)
class FuseIndices(RulePass):
    """See through indices that count through a whole tensor."""

    name: ClassVar[str] = "fuse-indices"
    rules: ClassVar[tuple[Rule, ...]] = (gather_all, gather_of_rows, one_size)
