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
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.fuse.attention.rotation import (
    LAST,
    STACKED,
    joins_last,
    pairs_of,
    parted,
    rank_and_size,
    rotation,
)
from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _product(op: Any, a: Any, b: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    real = op.Sub(op.Mul(a, cos), op.Mul(b, sin))
    return real, op.Add(op.Mul(b, cos), op.Mul(a, sin))


@rule(opset=(SINCE, None))
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
        axis=lambda axis: axis in STACKED,
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
    known = rank_and_size(a, ctx)
    if isinstance(known, NoMatch):
        return known
    rank, half = known
    if not same_shape(a.value, b.value):
        return NoMatch("the two parts are not known to be of one shape")
    if not joins_last(join, rank + (stacked is not None)):
        return NoMatch("the results are not joined along the last axis")
    if stacked is not None and not _in_turns(stacked, rank):
        return NoMatch("the results are not put in turns")
    x, paired = parted(a.value, b.value, 2 * half)
    if x is None:
        x, paired = _pairs(op, a.value, b.value, 2 * half), True
    if x is None or paired != (stacked is not None):
        if stacked is not None:
            return NoMatch("what is put in turns did not come in turns")
        x = inferred(op, op.Concat(a, b, axis=-1))
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


def _pairs(op: Builder, a: ir.Value, b: ir.Value, size: int) -> ir.Value | None:
    """Return `[..., size]` of what two values are the first and second of, `[..., size / 2, 2]`."""
    pairs = pairs_of(a, b)
    if pairs is None or pairs.shape is None or len(pairs.shape) != 1 + len(a.shape or ()):
        return None
    return inferred(op, op.Reshape(pairs, np.array([*[0] * (len(pairs.shape) - 2), size])))
