# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding spelled as products of complex numbers, as DeepSeek and JAX models do.

(a + ib) (cos + i sin) of two halves a and b, or of even and odd elements, whose results are put
side by side or in turns. Where they come in turns and go side by side, a Concat puts them in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_shape
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.heads import elements_of
from burnish.passes.fuse.attention.rotation import LAST, joins_last, place, rotation, window
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule
from burnish.passes.shapes import infer_node

_SINCE = 23  # operator set of RotaryEmbedding


def _product(op: Any, a: Any, b: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    real = op.Sub(op.Mul(a, cos), op.Mul(b, sin))
    return real, op.Add(op.Mul(b, cos), op.Mul(a, sin))


@rule(opset=(_SINCE, None))
def rotary_pairs(op: Any, a: Any, b: Any, cos: Any, sin: Any) -> Any:
    """Fuse [a cos - b sin, b cos + a sin], side by side or in turns, into RotaryEmbedding."""
    real, imaginary = _product(op, a, b, cos, sin)
    return op.Concat(real, imaginary, axis=lambda axis: axis in LAST, _bind="join")


@rotary_pairs.also
def _(op: Any, a: Any, b: Any, cos: Any, sin: Any, front: Any) -> Any:
    # Behind what is not rotated.
    real, imaginary = _product(op, a, b, cos, sin)
    return op.Concat(front, real, imaginary, axis=lambda axis: axis in LAST, _bind="join")


@rotary_pairs.also
def _(op: Any, a: Any, b: Any, cos: Any, sin: Any, back: Any) -> Any:
    real, imaginary = _product(op, a, b, cos, sin)
    return op.Concat(real, imaginary, back, axis=lambda axis: axis in LAST, _bind="join")


@rotary_pairs.also
def _(
    op: Any, a: Any, b: Any, cos: Any, sin: Any, minus: Any = const(), plus: Any = const()
) -> Any:
    real, imaginary = _product(op, a, b, cos, sin)
    pairs = op.Concat(
        op.Unsqueeze(real, minus),
        op.Unsqueeze(imaginary, plus),
        axis=lambda axis: axis in (-1, 3, 4),
        _bind="join",
    )
    return op.Reshape(pairs, _more=True, _bind="stacked")


@rotary_pairs.rewrite
def _(
    op: Builder,
    a: Operand,
    b: Operand,
    cos: Operand,
    sin: Operand,
    front: Operand | None,
    back: Operand | None,
    stacked: ir.Node | None,
    join: ir.Node,
    ctx: PassContext,
) -> Replacement:
    objection = ctx.target.objection_to("RotaryEmbedding", a.dtype)
    if objection is not None:
        return NoMatch(objection)
    if a.dims is None or len(a.dims) not in (3, 4) or not isinstance(a.dims[-1], int):
        return NoMatch("what is rotated is not of rank 3 or 4, or its size is unknown")
    if not same_shape(a.value, b.value):
        return NoMatch("the two parts are not known to be of one shape")
    size = 2 * a.dims[-1]
    if not joins_last(join, len(a.dims) + (stacked is not None)):
        return NoMatch("the results are not joined along the last axis")
    if stacked is not None and not _in_turns(stacked, len(a.dims)):
        return NoMatch("the results are not put in turns")
    x, paired = _of_one(a.value, b.value, size)
    if x is None:
        x, paired = _pairs(op, a.value, b.value, size), True
    if x is None or paired != (stacked is not None):
        if stacked is not None:
            return NoMatch("what is put in turns did not come in turns")
        x = op.Concat(a, b, axis=-1)
        infer_node(op.nodes[-1], op.opset_imports)
    y = rotation(op, Operand(x), cos, sin, paired=stacked is not None, once=True)
    if isinstance(y, NoMatch):
        return y
    if stacked is not None:
        return op.like(stacked, y, *stacked.inputs[1:])
    parts = [part for part in (front, y, back) if part is not None]
    return y if len(parts) == 1 else op.Concat(*parts, axis=-1)


def _in_turns(stacked: ir.Node, rank: int) -> bool:
    """Whether `[..., n, 2]`, both parts on a new last axis, may as well be `[..., 2n]`."""
    pairs, target = stacked.inputs[0], stacked.inputs[1]
    if pairs is None or target is None or not pairs.shape or len(pairs.shape) != rank + 1:
        return False
    elements = elements_of(target)
    copied = [] if elements is None else elements[rank - 1 :]
    # A 0 there would copy another size than before.
    return pairs.shape[-1] == 2 and elements is not None and 0 not in copied


def _of_one(a: ir.Value, b: ir.Value, size: int) -> tuple[ir.Value | None, bool]:
    """Return what two values are both parts of, and whether they are its even and odd elements."""
    first, second = a.producer(), b.producer()
    x = None if first is None else first.inputs[0]
    if first is None or second is None or x is None or x is not second.inputs[0]:
        return None, False
    if x.shape is None or x.shape[-1] != size:
        return None, False
    if first is second and first.op_type == "Split" and (a, b) == tuple(first.outputs):
        axis = first.attributes.get_int("axis", 0)
        return (x if axis in (-1, len(x.shape) - 1) else None), False
    if first.op_type == second.op_type == "Slice":
        half, rank = size // 2, len(x.shape)
        parts = (window(first, rank, size), window(second, rank, size))
        if parts == ((0, half, 1), (half, size, 1)):
            return x, False
        if parts == ((0, size, 2), (1, size, 2)):
            return x, True
    return None, False


def _pairs(op: Builder, a: ir.Value, b: ir.Value, size: int) -> ir.Value | None:
    """Return `[..., size]` of what two values are the first and second of, `[..., size / 2, 2]`."""
    stacks = [place(part) for part in (a, b)]
    if stacks[0] is None or stacks[1] is None or stacks[0][0] is not stacks[1][0]:
        return None
    pairs = stacks[0][0]
    if (stacks[0][1], stacks[1][1]) != (0, 1) or not pairs.shape or pairs.shape[-1] != 2:
        return None
    if len(pairs.shape) != 1 + len(a.shape or ()):
        return None
    made: ir.Value = op.Reshape(pairs, np.array([*[0] * (len(pairs.shape) - 2), size]))
    infer_node(op.nodes[-1], op.opset_imports)
    return made
