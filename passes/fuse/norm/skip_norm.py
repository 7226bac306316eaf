# SPDX-License-Identifier: Apache-2.0
"""A residual sum and its normalization as one operator of the runtime.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, in turns, 16 to 512 rows of 384 or 768,
between two products: SkipLayerNormalization 0.65 to 0.80, SkipSimplifiedLayerNormalization 0.95 to
0.98. Only targets that prefer them get them (`burnish.passes.fuse.lower`).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.cleanup.dims import same_shape
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_RMS = ("RMSNormalization", "SimplifiedLayerNormalization")


@rule(opset=(17, None))
def skip_layer_norm(
    op: Any, a: Any, b: Any, scale: Any, shift: Any = optional(), bias: Any = const()
) -> Any:
    """LayerNormalization(a + bias + b) and its sum -> SkipLayerNormalization."""
    total = op.Add(op.Add(a, bias), b)
    return op.LayerNormalization(total, scale, shift, _bind="norm"), total


@skip_layer_norm.also
def _(op: Any, a: Any, b: Any, scale: Any, shift: Any = optional()) -> Any:
    total = op.Add(a, b)
    return op.LayerNormalization(total, scale, shift, _bind="norm"), total


@skip_layer_norm.rewrite
def _(
    op: Builder,
    a: Operand,
    b: Operand,
    scale: Operand,
    shift: Operand | None,
    bias: Operand | None,
    norm: ir.Node,
) -> Replacement:
    objection = _objection(op, norm, a, b, bias)
    if objection is not None:
        return objection
    epsilon = op.attribute(norm, "epsilon")
    y, _, _, total = op.SkipLayerNormalization(
        a, b, scale, shift, bias, epsilon=epsilon, _domain=MICROSOFT, _outputs=4
    )
    return _like(norm, y), _like(norm, total)


@rule(opset=(7, None))
def skip_rms_norm(op: Any, a: Any, b: Any, scale: Any) -> Any:
    """RMSNormalization(a + b) and a + b -> SkipSimplifiedLayerNormalization."""
    total = op.Add(a, b)
    return op.one_of(*_RMS)(total, scale, _bind="norm"), total


@skip_rms_norm.rewrite
def _(op: Builder, a: Operand, b: Operand, scale: Operand, norm: ir.Node) -> Replacement:
    objection = _objection(op, norm, a, b, None)
    if objection is not None:
        return objection
    epsilon = op.attribute(norm, "epsilon")
    y, _, _, total = op.SkipSimplifiedLayerNormalization(
        a, b, scale, epsilon=epsilon, _domain=MICROSOFT, _outputs=4
    )
    return _like(norm, y), _like(norm, total)


def _objection(
    op: Builder, norm: ir.Node, a: Operand, b: Operand, bias: Operand | None
) -> NoMatch | None:
    if a.rank not in (2, 3) or not same_shape(a.value, b.value):
        return NoMatch("the summands are not known to have the same two or three sizes")
    assert a.rank is not None
    if norm.attributes.get_int("axis", -1) not in (-1, a.rank - 1):
        return NoMatch("more than the last axis is normalized")
    if bias is not None and (bias.rank != 1 or a.dims is None or bias.dims != a.dims[-1:]):
        return NoMatch("the bias is not one number for each element of a row")
    return None


def _like(norm: ir.Node, value: ir.Value) -> ir.Value:
    value.shape, value.type = norm.outputs[0].shape, norm.outputs[0].type
    return value
