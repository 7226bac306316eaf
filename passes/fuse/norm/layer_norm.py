# SPDX-License-Identifier: Apache-2.0
"""LayerNormalization in every spelling becomes one operator, over the axis of channels too.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, its own optimizations at their default, in
turns: over the last axis 1.00 (the runtime finds the usual spelling itself), over the axis of
channels, shapes 1x64x16x16 to 1x96x56x56, 1.76 to 2.25, with the two transposes that it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.norm import moments
from burnish.passes.fuse.scalar import is_scalar
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_SINCE = 17  # operator set of LayerNormalization


@rule(opset=(_SINCE, None))
def layer_norm(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    """Fuse (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) into LayerNormalization."""
    return moments.centred_and_divided(op, x, eps)


moments.also_with_scale_and_bias(layer_norm)


@layer_norm.rewrite
def _(
    op: Builder,
    x: Operand,
    eps: Operand | None,
    w: Operand | None,
    b: Operand | None,
    mean: ir.Node,
    variance: ir.Node,
) -> Replacement:
    axes = moments.normalized_axes(op, x, mean, variance)
    if not axes:
        return axes
    assert x.dtype is not None
    if moments.over_positions(x, axes):
        return NoMatch("the mean is over positions, as that of InstanceNormalization")
    normalized = moments.sizes(x, axes)
    if not normalized:
        return normalized
    # The scale and the bias go into the operator by `norm_scale` and `norm_bias`.
    ones, epsilon = np.ones(normalized, x.dtype.numpy()), moments.epsilon(eps)

    def normalize(value: Any, axis: int) -> Any:
        return op.LayerNormalization(value, ones, axis=axis, epsilon=epsilon)

    return moments.finished(op, moments.over_last(op, x, axes, normalize), w, b)
