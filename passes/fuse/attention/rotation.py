# SPDX-License-Identifier: Apache-2.0
"""What every spelled-out rotation is written as, and the parts of an axis that it reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import bounds_of, ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import scalar_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.angles import Angles, angles_of
from burnish.passes.fuse.attention.heads import joined, split
from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.rule import Builder, NoMatch, Operand

LAST = (-1, 2, 3)
"""How the last of three or four axes may be given; `joins_last` tells whether it is the last."""
STACKED = (-1, 3, 4)
"""As `LAST`, of an axis for the two elements of a pair, behind all others."""


def rank_and_size(x: Operand, ctx: PassContext) -> tuple[int, int] | NoMatch:
    """Return how many axes what is rotated has, and how long the last is; or say why it stays."""
    objection = ctx.target.objection_to("RotaryEmbedding", x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if x.dims is None or len(x.dims) not in (3, 4) or not isinstance(x.dims[-1], int):
        return NoMatch("what is rotated is not of rank 3 or 4, or its size is unknown")
    return len(x.dims), x.dims[-1]


def rotation(
    op: Builder, x: Operand, cos: Operand, sin: Operand, *, paired: bool, once: bool = False
) -> ir.Value | NoMatch:
    """Build RotaryEmbedding of x by the angles of two tables.

    Args:
        op: Builds it.
        x: `[batch, heads, tokens, size]` or `[batch, tokens, heads, size]`; without the batch too,
            or with the tokens before it.
        cos: Broadcasts over the heads, as `sin` does.
        sin: As `cos`.
        paired: The two elements of a pair are neighbours, else they are as far apart as halves.
        once: The tables hold each angle once, not for both elements of a pair.
    """
    if x.dims is None:
        return NoMatch("the rank of what is rotated is unknown")
    if _tokens_first(x, cos) and _tokens_first(x, sin):
        swapped = [Operand(_swapped(op, part.value)) for part in (x, cos, sin)]
        y = rotation(op, *swapped, paired=paired, once=once)
        return y if isinstance(y, NoMatch) else _swapped(op, y)
    alone = len(x.dims) == 3
    if any(len(table.dims or ()) > len(x.dims) for table in (cos, sin)):
        return NoMatch("the angles have more axes than what is rotated")
    whole = Operand(inferred(op, op.Unsqueeze(x, np.array([0])))) if alone else x
    assert whole.dims is not None
    tables: list[Angles] = []
    for table in (cos, sin):
        angles = angles_of(op, table, whole, paired=paired, once=once)
        if isinstance(angles, NoMatch):
            return angles
        tables.append(angles)
    heads = tables[0].heads
    if heads != tables[1].heads:
        return NoMatch("cosines and sines are not laid out alike")
    values = [table.value for table in tables]
    if not alone:
        # One row for all batches will not do.
        batch = op.Concat(op.Shape(_whole(x), start=0, end=1), np.array([1, 1]), axis=0)
        values = [op.Expand(value, batch) for value in values]
    interleaved = 1 if paired else None
    if heads == 1:
        y = op.RotaryEmbedding(whole, *values, interleaved=interleaved)
    else:
        count = whole.dims[2]
        if not isinstance(count, int):
            return NoMatch("the number of heads is unknown")
        flat = joined(op, whole)
        y = op.RotaryEmbedding(flat, *values, num_heads=count, interleaved=interleaved)
        y = split(op, y, count)
    return op.Squeeze(y, np.array([0])) if alone else y


def _tokens_first(x: Operand, table: Operand) -> bool:
    """Whether a table has angles for the first of four axes, and for no other."""
    if table.dims is None or x.dims is None or len(table.dims) != 4 or len(x.dims) != 4:
        return False
    alone = table.dims[0] != 1 and table.dims[1:3] == (1, 1) and isinstance(x.dims[2], int)
    return alone and same_dim(table.dims[0], x.dims[0])


def _swapped(op: Builder, x: ir.Value) -> ir.Value:
    return inferred(op, op.Transpose(x, perm=[1, 0, 2, 3]))


def _whole(x: Operand) -> ir.Value:
    """Return what x is a part of: who asks that for its batches is no user of x."""
    node = x.value.producer()
    if node is not None and node.op_type == "Transpose" and node.attributes["perm"].as_ints()[0]:
        return x.value
    inner = node.inputs[0] if node is not None and node.op_type in ("Slice", "Transpose") else None
    if inner is None or not x.dims or not inner.shape or not same_dim(inner.shape[0], x.dims[0]):
        return x.value
    return _whole(Operand(inner))


def joins_last(concat: ir.Node, rank: int) -> bool:
    """Whether a Concat of some rank puts its inputs side by side along the last axis."""
    return concat.attributes["axis"].as_int() in (-1, rank - 1)


def window(node: ir.Node | None, rank: int, size: int) -> tuple[int, int, int] | None:
    """Return what a Slice of the last axis, which is of a size, takes: start, end and step."""
    bounds = None if node is None else bounds_of(node, rank)
    if bounds is None or bounds.keys() != {rank - 1}:
        return None
    start, end, step = bounds[rank - 1]
    begin, stop, _ = slice(start, end).indices(size)
    return begin, stop, step


def parted(a: ir.Value, b: ir.Value, size: int) -> tuple[ir.Value | None, bool]:
    """Return what two values are both parts of, and whether they are its even and odd elements.

    Args:
        a: The first half of the last axis, or its even elements.
        b: The second half, or the odd elements.
        size: Of the last axis of what they are parts of.
    """
    first, second = a.producer(), b.producer()
    x = None if first is None else first.inputs[0]
    if first is None or second is None or x is None or x is not second.inputs[0]:
        return None, False
    if x.shape is None or x.shape[-1] != size or size % 2:
        return None, False
    half, rank = size // 2, len(x.shape)
    if first is second and first.op_type == "Split" and (a, b) == tuple(first.outputs):
        last = first.attributes.get_int("axis", 0) in (-1, rank - 1)
        even = all(part.shape is not None and part.shape[-1] == half for part in (a, b))
        return (x if last and even else None), False
    if first.op_type == second.op_type == "Slice":
        parts = (window(first, rank, size), window(second, rank, size))
        if parts == ((0, half, 1), (half, size, 1)):
            return x, False
        if parts == ((0, size, 2), (1, size, 2)):
            return x, True
    return None, False


def pairs_of(first: ir.Value, second: ir.Value) -> ir.Value | None:
    """Return the `[..., pairs, 2]` that two values are the first and the second elements of."""
    places = _place(first), _place(second)
    if places[0] is None or places[1] is None or places[0][0] is not places[1][0]:
        return None
    pairs = places[0][0]
    if (places[0][1], places[1][1]) != (0, 1) or not pairs.shape or pairs.shape[-1] != 2:
        return None
    return pairs


def _place(part: ir.Value) -> tuple[ir.Value, int] | None:
    """Return what a value is an element of, of the two along the last axis; and which."""
    node = part.producer()
    if node is not None and node.op_type == "Squeeze" and node.inputs[0] is not None:
        inner, axes = node.inputs[0], ints_of(node, "axes", 1)
        if axes is None or len(axes) != 1 or axes[0] not in (-1, len(inner.shape or ()) - 1):
            return None
        part, node = inner, inner.producer()
    stack = None if node is None or node.domain != "" else node.inputs[0]
    if node is None or stack is None or not stack.shape:
        return None
    last = (-1, len(stack.shape) - 1)
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) in last:
        index = node.inputs[1]
        alone = index is not None and index.shape in (ir.Shape([]), ir.Shape([1]))
        number = scalar_of(index) if alone else None
        return None if number is None else (stack, int(number) % 2)
    if not part.shape or part.shape[-1] != 1:
        return None
    if node.op_type == "Split" and node.attributes.get_int("axis", 0) in last:
        return stack, node.outputs.index(part)
    taken = window(node, len(stack.shape), 2) if node.op_type == "Slice" else None
    return None if taken is None else (stack, taken[0])
