# SPDX-License-Identifier: Apache-2.0
"""Tokens become maps, and maps tokens, by Transposes that the runtime takes into its layout.

Around their convolutions, hybrids of transformers swap the last two axes:

    [N, S, C] -> Transpose -> [N, C, S] -> Reshape -> [N, C, H, W] -> Conv

ONNX Runtime's convolutions in blocks of channels read and write maps with channels last at the
price of those with channels first. So the axes are taken apart first, then turned: the Transpose
then becomes part of the ReorderInput or ReorderOutput that is there anyway, and a large tensor less
is written. Products beside them multiply maps with channels last, too: what `products-to-convs`
makes of those stays in the layout.

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns: PVTv2-B0 1.11, with products 1.35.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.context import PassContext
from burnish.passes.fuse.conv.blocked import (
    ACTIVATIONS,
    has_blocked_layout,
    is_blocked_conv,
    made_in_blocks,
)
from burnish.passes.fuse.product.chain import TO_BACK, TO_FRONT
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_SWAP = (0, 2, 1)
_LEAST = 8
"""Channels; maps of fewer are read as they are."""

_NO_LAYOUT = NoMatch("the target has no blocked layout for it")
_NO_CONV = NoMatch("the map is not made by a convolution")
_UNKNOWN = NoMatch("the sizes of the map are unknown")
_OTHER = NoMatch("the pixels are not the tokens")


def _is(wanted: tuple[int, ...]) -> Any:
    return lambda perm: perm is not None and tuple(perm) == wanted  # None reverses all axes


def _goes_into_blocks(value: ir.Value) -> bool:
    """Whether convolutions in the layout read a map, and nothing else."""
    users = value.consumers()
    alone = bool(users) and not value.is_graph_output()
    return alone and all(is_blocked_conv(user) and user.inputs[0] is value for user in users)


@rule(opset=(5, None))
def tokens_to_map(op: Any, x: Any) -> Any:
    """Reshape(Transpose(x)) before a convolution -> Transpose(Reshape(x)), channels last."""
    return op.Reshape(op.Transpose(x, perm=_is(_SWAP)), _more=True, _bind="map_")


@tokens_to_map.rewrite
def _(op: Builder, x: Operand, map_: ir.Node, ctx: PassContext) -> Replacement:
    tokens, sizes = x.dims, map_.outputs[0].shape
    if tokens is None or sizes is None or len(sizes) != 4:
        return NoMatch("it does not become a map, or a rank is unknown")
    channels, height, width = sizes[1:]
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return _UNKNOWN
    if tuple(tokens[1:]) != (height * width, channels):
        return _OTHER
    if not has_blocked_layout(ctx.target):
        return _NO_LAYOUT
    if channels < _LEAST or not _goes_into_blocks(map_.outputs[0]):
        return NoMatch("others than convolutions read the map")
    last = op.Reshape(x, np.array([0, height, width, channels], dtype=np.int64))
    return op.Transpose(last, perm=TO_FRONT)


@rule(opset=(5, None))
def map_to_tokens(op: Any, x: Any) -> Any:
    """Transpose(Reshape(x)) behind a convolution -> Reshape(Transpose(x)), channels last."""
    return op.Transpose(op.Reshape(x, _more=True, _bind="rows"), perm=_is(_SWAP))


@map_to_tokens.rewrite
def _(op: Builder, x: Operand, rows: ir.Node, ctx: PassContext) -> Replacement:
    sizes, flat = x.dims, rows.outputs[0].shape
    if sizes is None or flat is None or len(sizes) != 4 or len(flat) != 3:
        return NoMatch("it does not become tokens, or a rank is unknown")
    channels, height, width = sizes[1:]
    if not isinstance(channels, int):
        return _UNKNOWN
    known = isinstance(height, int) and isinstance(width, int)
    pixels = height * width if known else -1
    if flat[1] != channels or not (flat[2] == pixels or same_dim(sizes[0], flat[0])):
        return _OTHER
    if not has_blocked_layout(ctx.target):
        return _NO_LAYOUT
    if not made_in_blocks(x.value):
        return _NO_CONV
    last = op.Transpose(x, perm=TO_BACK)
    return op.Reshape(last, np.array([0, pixels, channels], dtype=np.int64))


@rule(opset=(5, None))
def product_to_map(op: Any, x: Any, w: Any = const(), b: Any = const()) -> Any:
    """Transpose(Reshape(x W + b)) before a convolution -> Transpose(Reshape(x) W + b)."""
    product = op.Add(op.MatMul(x, w), b)
    return op.Transpose(op.Reshape(product, _more=True, _bind="map_"), perm=_is(TO_FRONT))


@product_to_map.rewrite
def _(
    op: Builder, x: Operand, w: Operand, b: Operand, map_: ir.Node, ctx: PassContext
) -> Replacement:
    tokens, sizes = x.dims, map_.outputs[0].shape
    if tokens is None or len(tokens) != 3 or w.dims is None or len(w.dims) != 2 or b.rank != 1:
        return NoMatch("it is no product of tokens with a matrix")
    if sizes is None or len(sizes) != 4:
        return NoMatch("it does not become a map, or a rank is unknown")
    height, width = sizes[1:3]
    if not (isinstance(height, int) and isinstance(width, int)):
        return _UNKNOWN
    if (tokens[1], w.dims[1]) != (height * width, sizes[3]):
        return _OTHER
    if not has_blocked_layout(ctx.target):
        return _NO_LAYOUT
    (turned,) = map_.outputs[0].consumers()
    if not _goes_into_blocks(turned.outputs[0]):
        return NoMatch("others than convolutions read the map")
    if sum(user.op_type == "MatMul" for user in x.value.consumers()) > 1:
        return NoMatch("other products of the same tokens may be merged with it")
    last = op.Reshape(x, np.array([0, height, width, w.dims[0]], dtype=np.int64))
    return op.Transpose(op.Add(op.MatMul(last, w), b), perm=TO_FRONT)


@rule(opset=(5, None))
def product_of_map(op: Any, x: Any, w: Any = const(), b: Any = const()) -> Any:
    """f(Reshape(Transpose(x))) W + b behind a convolution -> Reshape(f(Transpose(x)) W + b)."""
    rows = op.Reshape(op.Transpose(x, perm=_is(TO_BACK)), _more=True, _bind="rows")
    return op.Add(op.MatMul(op.one_of(*sorted(ACTIVATIONS))(rows, _bind="f"), w), b)


@product_of_map.also
def _(op: Any, x: Any, w: Any = const(), b: Any = const()) -> Any:
    rows = op.Reshape(op.Transpose(x, perm=_is(TO_BACK)), _more=True, _bind="rows")
    return op.Add(op.MatMul(rows, w), b)


@product_of_map.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand,
    rows: ir.Node,
    f: ir.Node | None,
    ctx: PassContext,
) -> Replacement:
    sizes, flat = x.dims, rows.outputs[0].shape
    if sizes is None or flat is None or w.dims is None:
        return NoMatch("a rank is unknown")
    if len(flat) != 3 or len(w.dims) != 2 or b.rank != 1:
        return NoMatch("it is no product of tokens with a matrix")
    channels, height, width = sizes[1:]
    if not (isinstance(height, int) and isinstance(width, int)):
        return _UNKNOWN
    if tuple(flat[1:]) != (height * width, channels):
        return _OTHER
    if not has_blocked_layout(ctx.target):
        return _NO_LAYOUT
    if not made_in_blocks(x.value):
        return _NO_CONV
    last = op.Transpose(x, perm=TO_BACK)
    product = op.Add(op.MatMul(last if f is None else op.like(f, last), w), b)
    return op.Reshape(product, np.array([0, height * width, w.dims[-1]], dtype=np.int64))


RULES = (tokens_to_map, map_to_tokens, product_to_map, product_of_map)
