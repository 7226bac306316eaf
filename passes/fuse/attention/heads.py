# SPDX-License-Identifier: Apache-2.0
"""Split, joined and repeated heads: what stands around the products of an attention.

Queries are `[batch, heads, length, size]`; keys and values have as many heads or, where several
heads of queries share one, fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import Size, same_dim
from burnish.passes.cleanup.partial.follow import follow
from burnish.passes.cleanup.partial.partial import Dim, Element, Partial, partial_of
from burnish.passes.constant import as_array
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

SWAP_LAST = (0, 1, 3, 2)
SWAP_HEADS = (0, 2, 1, 3)
_DEPTH = 6  # operators between a size and the shape made of it


# --- the transposed keys -----------------------------------------------------------------------


@rule(opset=(13, None))
def swap_last_axes(op: Any, x: Any, merged: Any, split: Any) -> Any:
    """Reshape(Transpose(Reshape(x, 3-D)), 4-D) -> Transpose(x): the leading axes stay as they are.

    So exporters transpose the keys of an attention whose rank they do not know.
    """
    flat = op.Reshape(x, merged, _bind="inner")
    return op.Reshape(op.Transpose(flat, perm=[0, 2, 1]), split, _bind="outer")


@swap_last_axes.rewrite
def _(op: Builder, x: Operand, merged: Operand, split: Operand) -> Replacement:
    if x.rank != 4:
        return NoMatch("not of rank 4")
    inner, outer = elements_of(merged.value), elements_of(split.value)
    if inner is None or outer is None or len(inner) != 3 or len(outer) != 4:
        return NoMatch("the shapes are not known")
    if not (is_size_of(inner[1], x.value, 2) and is_size_of(inner[2], x.value, 3)):
        return NoMatch("the reshape does not keep the last two axes")
    # One of them may be -1: it stands for what the others leave.
    left = [i for i in range(4) if not is_size_of(outer[i], x.value, SWAP_LAST[i])]
    if len(left) > 1 or any(outer[i] != -1 for i in left):
        return NoMatch("the reshape does not restore the leading axes")
    return op.Transpose(x, perm=SWAP_LAST)


def elements_of(value: ir.Value, depth: int = _DEPTH) -> Sequence[Element] | None:
    """Return what is known of each element of a computed shape, or None."""
    found = _partial(value, depth)
    return None if found is None else found.elements


def _partial(value: ir.Value | None, depth: int) -> Partial | None:
    array = as_array(value)
    if array is not None:
        return partial_of(array)
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain != "" or len(node.outputs) != 1:
        return None
    if node.op_type == "Shape":
        return follow(node, {})
    known = {item: _partial(item, depth - 1) for item in node.inputs if item is not None}
    return follow(node, {item: partial for item, partial in known.items() if partial is not None})


def is_size_of(element: Element, value: ir.Value, axis: int) -> bool:
    """Whether an element of a shape certainly is the size of an axis of a value."""
    if isinstance(element, Dim):
        return element.same_size(value, axis)
    dim = None if value.shape is None else value.shape[axis]
    return isinstance(element, int) and element == dim


# --- heads that are shared ---------------------------------------------------------------------


def unrepeated(value: ir.Value) -> tuple[ir.Value, int]:
    """Return keys or values before each head was repeated for several queries, and how often.

    Looks through Reshape(Expand(Unsqueeze(x, 2))), also with Tile, and Gather of each head several
    times; of one head, through Expand, Tile and Concat. 1 where nothing is repeated.
    """
    node = value.producer()
    if node is None or node.domain != "" or value.shape is None or len(value.shape) != 4:
        return value, 1
    single = _single(node)
    if single is None or single.shape is None or len(single.shape) != 4:
        return value, 1
    few, many = single.shape[1], value.shape[1]
    if not isinstance(few, int) or not isinstance(many, int) or not few or many % few:
        return value, 1
    others = (0, 2, 3)
    same = all(same_dim(single.shape[axis], value.shape[axis]) for axis in others)
    return (single, many // few) if same else (value, 1)


def _single(node: ir.Node) -> ir.Value | None:
    """Return what a node repeats the heads of, each head in one run; the shapes say how often."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    alone = len(value.shape) == 4 and value.shape[1] == 1
    match node.op_type:
        case "Reshape":
            return _unstacked(node)
        case "Expand" | "Tile":
            return value if alone else None
        case "Concat":
            axis = node.attributes["axis"].as_int()
            return value if alone and axis == 1 and set(node.inputs) == {value} else None
        case "Gather":
            index, along = as_array(node.inputs[1]), node.attributes.get("axis")
            heads = value.shape[1] if len(value.shape) == 4 else None
            if index is None or along is None or along.as_int() != 1 or not isinstance(heads, int):
                return None
            runs = np.repeat(np.arange(heads), index.size // heads)
            return value if np.array_equal(index, runs) else None
    return None


def _unstacked(reshape: ir.Node) -> ir.Value | None:
    """Return x of Reshape(Expand(Unsqueeze(x, 2))): the third of five axes repeats each head."""
    stack = _producer(reshape, "Expand") or _producer(reshape, "Tile")
    unsqueeze = None if stack is None else _producer(stack, "Unsqueeze")
    if stack is None or unsqueeze is None or ints_of(unsqueeze, "axes", 1) != (2,):
        return None
    before, after = unsqueeze.outputs[0].shape, stack.outputs[0].shape
    if before is None or after is None or len(before) != 5 or len(after) != 5:
        return None
    merged, times = reshape.outputs[0].shape, after[2]
    if merged is None or len(merged) != 4 or not isinstance(times, int):
        return None
    whole = isinstance(before[1], int) and merged[1] == before[1] * times
    kept = all(same_dim(before[axis], after[axis]) for axis in (0, 1, 3, 4))
    return unsqueeze.inputs[0] if whole and kept else None


def _producer(node: ir.Node, op_type: str) -> ir.Node | None:
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type else None


# --- heads one behind another ------------------------------------------------------------------


def splits_heads(merged: ir.Value, whole: ir.Value) -> bool:
    """Whether `[batch * heads, a, b]` certainly became `[batch, heads, a, b]`, or the reverse."""
    if merged.shape is None or whole.shape is None:
        return False
    three, four = merged.shape.dims, whole.shape.dims
    if len(three) != 3 or len(four) != 4 or not same_dim(three[1], four[2]):
        return False
    # What is left for the last axis is the same where the leading ones are.
    return same_dim(three[2], four[3]) or _is_product(three[0], four[0], four[1])


def _is_product(product: Size, a: Size, b: Size) -> bool:
    if isinstance(a, int) or not isinstance(b, int) or isinstance(product, int):
        return isinstance(a, int) and isinstance(b, int) and product == a * b
    return product.value is not None and product.value in (f"{a.value}*{b}", f"{b}*{a.value}")


def apart(merged: ir.Value) -> ir.Value | None:
    """Return the `[batch, heads, a, b]` that a value `[batch * heads, a, b]` was made of."""
    node = merged.producer()
    whole = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    return whole if whole is not None and splits_heads(merged, whole) else None


# --- between three axes and four ---------------------------------------------------------------


def joined(op: Builder, x: Any) -> ir.Value:
    """Turn `[batch, length, heads, size]` into `[batch, length, heads * size]`."""
    return op.Reshape(x, np.array([0, 0, -1]))  # type: ignore[no-any-return]


def split(op: Builder, x: Any, heads: int) -> ir.Value:
    """Turn `[batch, length, heads * size]` into `[batch, length, heads, size]`."""
    return op.Reshape(x, np.array([0, 0, heads, -1]))  # type: ignore[no-any-return]


def swapped(op: Builder, x: Any) -> ir.Value:
    """Turn `[batch, heads, length, size]` into `[batch, length, heads, size]`, or the reverse."""
    return op.Transpose(x, perm=SWAP_HEADS)  # type: ignore[no-any-return]
