# SPDX-License-Identifier: Apache-2.0
"""PRelu in operators that the runtime vectorises, which PRelu is not: 2 to 5 ns an element.

With slopes a, all of them exact but the first, which is within two roundings of x:

    a * x + Relu((1 - a) * x)          0 < a < 1, in the blocked layout
    Relu(x) - a * Relu(-x)             any slopes
    Max(x, a * x)                      a <= 1, not 0

Behind a convolution in the runtime's blocked layout (NCHWc), products with a number for each
channel are depthwise convolutions, which take in the Relu and the sum; neither PRelu nor Max is run
in that layout. Ratios of speed on ONNX Runtime 1.31.1, AVX-512, one thread, in turns, see
docs/decisions.md: four 1x1 convolutions, each with PRelu, 1.3 (512 channels of 7x7) to 3.2 (64
of 112x112) in blocks for 1.2 to 2.2 by Max; by itself, Max 13 for 64 channels of 56x56, 0.9 for
2x16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from burnish.passes.cleanup.dims import keeps_shape
from burnish.passes.context import PassContext
from burnish.passes.fuse.channels import Channels
from burnish.passes.fuse.conv.blocked import has_blocked_layout, summed_in_blocks
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

PREFERENCE = "PRelu-expanded"

_FEWEST = 512
"""Numbers of a map from which on forms in blocks pay; below it, two operators more cost more."""


def _slopes(x: Operand, a: Operand, ctx: PassContext) -> np.ndarray | NoMatch:
    """Return the slopes, if PRelu can be written in other operators on the target."""
    objection = ctx.target.objection_to(PREFERENCE, x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if x.dtype not in FLOATS:
        return NoMatch("integers have no vectorised form")
    assert a.array is not None
    if a.array.size == 0 or not np.isfinite(a.array).all():
        return NoMatch("a slope is not finite")
    if not keeps_shape(x.value, a.value):
        return NoMatch("the slopes may be of more axes than x, or longer")
    return a.array


@rule(opset=(7, None))
def prelu_in_blocks(op: Any, x: Any, a: Any = const()) -> Any:
    """Write PRelu behind a convolution as sums of Relu, which stay in the blocked layout."""
    return op.PRelu(x, a)


@prelu_in_blocks.rewrite
def _(op: Builder, x: Operand, a: Operand, ctx: PassContext) -> Replacement:
    slopes = _slopes(x, a, ctx)
    if isinstance(slopes, NoMatch):
        return slopes
    if not has_blocked_layout(ctx.target) or not summed_in_blocks(x.value):
        return NoMatch("no convolution in blocks is before it")
    if x.rank != 4 or x.dims is None or not isinstance(x.dims[1], int):
        return NoMatch("the number of channels is unknown")
    if x.static_dims is not None and math.prod(x.static_dims) < _FEWEST:
        return NoMatch("the map is small")
    vector = Channels(x.dims[1], 3, 4).vector(slopes)
    if vector is None:
        return NoMatch("the slopes differ along more than the channels")
    column = np.broadcast_to(vector, x.dims[1]).astype(slopes.dtype).reshape(-1, 1, 1)
    if ((column > 0) & (column < 1)).all():
        return op.Add(op.Mul(x, column), op.Relu(op.Mul(x, 1 - column)))
    below = op.Relu(op.Mul(x, -np.ones_like(column)))
    return op.Add(op.Mul(below, -column), op.Relu(x))


@rule(opset=(8, None), may_lose=PREFERENCE)
def prelu_to_max(op: Any, x: Any, a: Any = const()) -> Any:
    """PRelu(x, a) -> Max(x, Mul(x, a)), where no slope is above 1."""
    return op.PRelu(x, a)


@prelu_to_max.rewrite
def _(op: Builder, x: Operand, a: Operand, ctx: PassContext) -> Replacement:
    slopes = _slopes(x, a, ctx)
    if isinstance(slopes, NoMatch):
        return slopes
    if (slopes > 1).any():
        return NoMatch("a slope is above 1")
    if (slopes == 0).any():
        return NoMatch("a slope is 0, whose product with infinity is no number")
    return op.Max(x, op.Mul(x, a))


@rule(opset=(7, None), may_lose=PREFERENCE)
def prelu_to_relu(op: Any, x: Any, a: Any = const()) -> Any:
    """PRelu(x, a) -> Sub(Relu(x), Mul(Relu(Neg(x)), a)), where Max would be wrong."""
    return op.PRelu(x, a)


@prelu_to_relu.rewrite
def _(op: Builder, x: Operand, a: Operand, ctx: PassContext) -> Replacement:
    slopes = _slopes(x, a, ctx)
    if isinstance(slopes, NoMatch):
        return slopes
    if ((slopes <= 1) & (slopes != 0)).all():
        return NoMatch("Max is enough")
    return op.Sub(op.Relu(x), op.Mul(op.Relu(op.Neg(x)), a))


@dataclass(frozen=True)
class ExpandPRelu(RulePass):
    """Write PRelu in operators that are faster together; last, since others know PRelu."""

    name: ClassVar[str] = "expand-prelu"
    last: ClassVar[bool] = True
    rules: ClassVar[tuple[Rule, ...]] = (prelu_in_blocks, prelu_to_max, prelu_to_relu)
