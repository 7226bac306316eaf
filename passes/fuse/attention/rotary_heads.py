# SPDX-License-Identifier: Apache-2.0
"""Heads that are set apart before they are rotated, and that an Attention can set apart itself."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.fuse.attention.heads import SWAP_HEADS, joined, split, swapped
from burnish.passes.fuse.attention.opset import SINCE
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(SINCE, None))
def rotary_joins_heads(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """RotaryEmbedding(Transpose(x)) -> Transpose(RotaryEmbedding(x)), for an Attention behind it.

    Attention then does what the Transpose does.
    """
    return op.RotaryEmbedding(op.Transpose(x, perm=list(SWAP_HEADS)), cos, sin, _bind="inner")


@rotary_joins_heads.rewrite
def _(op: Builder, x: Operand, cos: Operand, sin: Operand, inner: ir.Node) -> Replacement:
    users = inner.outputs[0].consumers()
    if not users or any(user.op_type != "Attention" or user.domain != "" for user in users):
        return NoMatch("no Attention uses what is rotated")
    if x.dims is None or not isinstance(x.dims[2], int):
        return NoMatch("the number of heads is unknown")
    y = op.like(inner, joined(op, x), cos, sin, num_heads=x.dims[2])
    return swapped(op, split(op, y, x.dims[2]))
