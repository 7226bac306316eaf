# SPDX-License-Identifier: Apache-2.0
"""A convolution of an upsampled map is computed before it is upsampled.

Of k x k pixels that a convolution reads from a map upsampled s times by repetition, most are the
same. So each of the s * s phases of the result is a smaller convolution of the small map, whose
taps are sums of taps; DepthToSpace puts the phases together (Shi et al., "Is the deconvolution
layer the same as a convolutional layer?", 2016). For 3 x 3 and s = 2 that takes 16 products for 36.
A pointwise convolution just changes places with the interpolation, whose weights add up to 1.

Ratios on ONNX Runtime 1.31.1, CPU, one thread, in turns, 3 x 3, s = 2: 1.37 for 64 channels of
56x56, 1.72 for 128 -> 64 of 40x40, 1.93 for 320 of 32x32, 2.07 for 640 of 16x16.

A decoder often joins maps of several sizes, enlarged, before a convolution. The convolution of the
join is the sum of those of its parts; enlarging by 8, 4 and 2 is enlarging by 4, 2 and 1, joining,
and enlarging by 2. PP-OCRv4 det 1.06, v6 det 1.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.fuse.conv.blocked import block_size
from burnish.passes.fuse.enlarge.phases import obstacle, pads_of, phases, repeats, scales_of
from burnish.passes.pattern import const, variadic
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

PREFERENCE = "DepthToSpace-phases"

_FEWEST_CHANNELS = 32
"""Fewer take less time to convolve than their phases take to be put together."""

_WORTH = 300
"""Products that take as long as putting one element in its place and adding it to another: 2.2 ns
were measured for these, at 120 products a nanosecond."""

_FACTORS = 2, 3, 4


@rule(opset=(13, None))
def pointwise_before_resize(op: Any, x: Any, w: Any = const()) -> Any:
    """Write Conv(Resize(x)) as Resize(Conv(x)), where the convolution is pointwise."""
    large = op.Resize(x, _more=True, _bind="resize")
    return op.Conv(large, w, _more=True, _bind="conv")


@pointwise_before_resize.rewrite
def _(op: Builder, x: Operand, w: Operand, resize: ir.Node, conv: ir.Node) -> Replacement:
    dims, scales = w.static_dims, scales_of(op, resize)
    assert dims is not None
    if set(dims[2:]) != {1} or any(step != 1 for step in op.attribute(conv, "strides") or ()):
        return NoMatch("the convolution is not pointwise")
    if pads_of(op, conv, dims[2:]) != [0] * 2 * len(dims[2:]):
        return NoMatch("the convolution pads")
    if scales is None or not all(scale >= 1 for scale in scales) or math.prod(scales) <= 1:
        return NoMatch("the map is not enlarged along spatial axes by known factors")
    mode = op.attribute(resize, "coordinate_transformation_mode")
    if op.attribute(resize, "mode") == "cubic" or mode == "tf_crop_and_resize":
        return NoMatch("the interpolation may reach beyond the map")
    if dims[0] > dims[1] * op.attribute(conv, "group"):
        return NoMatch("there would be more channels to enlarge")
    return op.like(resize, op.like(conv, x, *conv.inputs[1:]), *resize.inputs[1:])


@rule(opset=(13, None), may_lose=PREFERENCE)
def conv_of_upsampled(op: Any, x: Any, w: Any = const()) -> Any:
    """Write Conv(Resize(x)) as DepthToSpace of smaller convolutions of x, one for each phase."""
    large = op.Resize(x, _more=True, _bind="resize")
    return op.Conv(large, w, _more=True, _bind="conv")


@conv_of_upsampled.rewrite
def _(
    op: Builder, x: Operand, w: Operand, resize: ir.Node, conv: ir.Node, ctx: PassContext
) -> Replacement:
    scales = scales_of(op, resize)
    objection = ctx.target.objection_to(PREFERENCE, w.dtype) or obstacle(op, conv, w)
    if objection is not None:
        return NoMatch(objection)
    if scales is None or scales[0] != scales[1] or scales[0] not in _FACTORS:
        return NoMatch("the map is not enlarged by 2, 3 or 4 along both axes")
    if not repeats(op, resize):
        return NoMatch("the map is not enlarged by repetition")
    assert w.array is not None
    if min(w.array.shape[:2]) < _FEWEST_CHANNELS:
        return NoMatch("there are few channels")
    block = block_size(ctx.target)
    return phases(op, conv, x, w.array, int(scales[0]), *conv.inputs[2:], block=block)


@rule(opset=(13, None), may_lose=PREFERENCE)
def conv_of_upsampled_parts(op: Any, parts: Any = variadic(), w: Any = const()) -> Any:
    """Write Conv(Concat(Resize(x), y)) as phases of Conv(x), as above, and Conv(y)."""
    return op.Conv(op.Concat(parts, axis=1), w, _more=True, _bind="conv")


@conv_of_upsampled_parts.rewrite
def _(
    op: Builder, parts: tuple[Operand, ...], w: Operand, conv: ir.Node, ctx: PassContext
) -> Replacement:
    factors = [_repetition(op, part) for part in parts]
    scale = next((f for f in _FACTORS if any(factor % f == 0 for factor in factors)), None)
    objection = ctx.target.objection_to(PREFERENCE, w.dtype) or obstacle(op, conv, w)
    if scale is None:
        return NoMatch("no part is enlarged by repetition")
    if objection is not None:
        return NoMatch(objection)
    assert w.array is not None
    sizes = [part.dims[1] if part.dims is not None else None for part in parts]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(parts) or sum(known) != w.array.shape[1]:
        return NoMatch("the number of channels is unknown")
    enlarged = [factor % scale == 0 for factor in factors]
    pads, taps = pads_of(op, conv, w.array.shape[2:]), 1.0
    assert pads is not None
    for axis, size in enumerate(w.array.shape[2:]):
        pixels = (np.arange(scale)[:, None] - pads[axis] + np.arange(size)) // scale
        taps *= float(np.mean([len(set(row)) for row in pixels]))
    fewer = sum(size for size, is_large in zip(known, enlarged, strict=True) if is_large)
    if fewer * (math.prod(w.array.shape[2:]) - taps) < _WORTH:
        return NoMatch("it would save few products")
    own = np.split(w.array, np.cumsum(known)[:-1], axis=1)
    small, rest = [], []
    for part, factor, is_large in zip(parts, factors, enlarged, strict=True):
        if is_large:
            small.append(_smaller(op, part, factor // scale))
        else:
            rest.append(part)
    kernels = [
        np.concatenate(
            [k for k, is_large in zip(own, enlarged, strict=True) if is_large == side], 1
        )
        for side in (True, False)
        if side in enlarged
    ]
    bias = conv.inputs[2:]
    own_bias, block = [] if rest else bias, block_size(ctx.target)
    made = phases(op, conv, _joined(op, small), kernels[0], scale, *own_bias, block=block)
    if isinstance(made, NoMatch) or not rest:
        return made
    return op.Add(op.like(conv, _joined(op, rest), kernels[1], *bias), made)


def _repetition(op: Builder, part: Operand) -> int:
    """Return by how much a part of a Concat alone was enlarged by repetition; else 1."""
    resize = part.value.producer()
    if resize is None or resize.op_type != "Resize" or resize.domain != "" or part.uses > 1:
        return 1
    scales = scales_of(op, resize)
    if scales is None or len(scales) != 2 or scales[0] != scales[1] or not repeats(op, resize):
        return 1
    return int(scales[0]) if scales[0] == int(scales[0]) else 1


def _smaller(op: Builder, part: Operand, factor: int) -> ir.Value:
    """Return what a part was enlarged from, enlarged by a smaller factor."""
    resize = part.value.producer()
    assert resize is not None
    x, roi, scales = resize.inputs
    assert x is not None
    assert scales is not None
    if factor == 1:
        return x
    enlarged: ir.Value = op.like(resize, x, roi, np.array([1, 1, factor, factor], np.float32))
    return enlarged


def _joined(op: Builder, parts: Sequence[ir.Value | Operand]) -> Any:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)
