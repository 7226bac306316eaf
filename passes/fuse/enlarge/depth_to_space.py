# SPDX-License-Identifier: Apache-2.0
"""DepthToSpace in the two moves that the runtime is fast at.

The CPU's DepthToSpace takes 0.6 to 2.4 ns an element, one at a time. Two Transposes that move one
axis each take 0.3 to 0.7 to the same bytes: the first puts the columns of the phases beside each
other, the second whole rows (CRD, as torch's PixelShuffle, has C in front):

    [N, s, s, C, H, W] -> [N, s, C, H, W, s] = [N, s, C, H, W s] -> [N, C, H, s, W s]

Behind convolutions it can move whole runs of channels, with channels last. What one row of a phase
puts beside the next is a run of s * C numbers, and the runtime makes the Transposes around it part
of the ways out of its blocked layout and in again:

    [N, s s C, H, W] -> [N, H, W, s, s C] -> [N, H, s, W, s C] -> [N, C, s H, s W]

A convolution before DepthToSpace that counts phases last (CRD) has its filters put in the other
order for that.

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns. Rows, alone: 1.9 for 16 channels of
56x56 (s = 4), 1.5 for 48 of 128x128 (s = 4), 2.4 for 96 of 60x60 (s = 2), 3.3 for 12 of 360x360.
Runs, with a convolution before and after: 1.20 for 24 channels of 60x60 (s = 2), 1.28 for 64 of
56x56; without one after it 1.56 for 32 of 64x64, 1.01 for 3 of 128x128 (short runs stay). Where no
size is left open, the batch included, the runtime takes the first Transpose past the Reshape and
into the second, which is slow: 0.80 for 48 of 48x48 and of 60x60, where rows are at 1.18.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import is_constant
from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.fuse.conv.blocked import ACTIVATIONS, has_blocked_layout, made_in_blocks
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

RUNS = "DepthToSpace-runs"
ROWS = "DepthToSpace-rows"

_ORDERS = {"CRD": ((0, 1, 4, 2, 5, 3), 1, 2, 3), "DCR": ((0, 3, 4, 1, 5, 2), 3, 1, 2)}
"""Mode -> the order of axes when it is spelled out, and which are channels, rows and columns."""

_SHORTEST = 32
"""Numbers in a run that is worth it."""


@rule(opset=(11, None))
def pixel_shuffle(op: Any, x: Any) -> Any:
    """Write Reshape, Transpose, Reshape that enlarge a map as DepthToSpace."""
    apart = op.Reshape(x, _more=True, _bind="apart")
    return op.Reshape(op.Transpose(apart, _bind="moved"), _more=True, _bind="together")


@pixel_shuffle.rewrite
def _(op: Builder, x: Operand, apart: ir.Node, moved: ir.Node, together: ir.Node) -> Replacement:
    split, whole = Operand(apart.outputs[0]).dims, Operand(together.outputs[0]).dims
    order = tuple(op.attribute(moved, "perm") or ())
    found = next((item for item in _ORDERS.items() if item[1][0] == order), None)
    if found is None:
        return NoMatch("rows and columns are not what is put between others")
    if x.dims is None or split is None or whole is None or len(x.dims) != 4 or len(whole) != 4:
        return NoMatch("not a map that becomes another, or a rank is unknown")
    mode, (_, channel, row, column) = found
    channels, scale = split[channel], split[row]
    if not isinstance(channels, int) or not isinstance(scale, int) or split[column] != scale:
        return NoMatch("rows and columns are not enlarged by one known number")
    height, width = x.dims[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return NoMatch("the size of the map is unknown")
    sizes = [channels, height * scale, width * scale]
    if [*split[4:]] != [height, width] or [*whole[1:]] != sizes or x.dims[1] != channels * scale**2:
        return NoMatch("the axes are not the rows and columns of phases")
    return op.DepthToSpace(x, blocksize=scale, mode=mode)


@rule(opset=(11, None))
def activation_before_depth_to_space(op: Any, x: Any) -> Any:
    """Write f(DepthToSpace(x)) as DepthToSpace(f(x)), where a convolution can take f in."""
    large = op.DepthToSpace(x, _more=True, _bind="shuffle")
    return op.one_of(*sorted(ACTIVATIONS))(large, _more=True, _bind="active")


@activation_before_depth_to_space.rewrite
def _(op: Builder, x: Operand, shuffle: ir.Node, active: ir.Node) -> Replacement:
    if not _made_for_it(x):
        return NoMatch("no convolution is before it")
    return op.like(shuffle, op.like(active, x, *active.inputs[1:]))


@rule(opset=(11, None))
def phases_first(op: Any, x: Any, w: Any = const()) -> Any:
    """Order the filters of a convolution so that DepthToSpace counts phases first (DCR)."""
    return op.DepthToSpace(op.Conv(x, w, _more=True, _bind="conv"), mode="CRD", _bind="shuffle")


@phases_first.also
def _(op: Any, x: Any, w: Any = const()) -> Any:
    made = op.one_of(*sorted(ACTIVATIONS))(
        op.Conv(x, w, _more=True, _bind="conv"), _more=True, _bind="active"
    )
    return op.DepthToSpace(made, mode="CRD", _bind="shuffle")


@phases_first.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    conv: ir.Node,
    shuffle: ir.Node,
    active: ir.Node | None,
) -> Replacement:
    bias = Operand(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else None
    if op.attribute(conv, "group") != 1 or use_count(w.value) > 1:
        return NoMatch("the convolution has groups, or its weights other users")
    if bias is not None and not is_constant(bias.value):
        return NoMatch("the bias is not constant")
    assert w.array is not None
    phases = op.attribute(shuffle, "blocksize") ** 2
    order = np.arange(len(w.array)).reshape(-1, phases).T.reshape(-1)
    given = [w.array[order]]
    if bias is not None and bias.array is not None:
        given.append(bias.array[order])
    made = op.like(conv, x, *given)
    if active is not None:
        made = op.like(active, made, *active.inputs[1:])
    return op.like(shuffle, made, mode="DCR")


@rule(opset=(13, None))
def depth_to_space_by_runs(op: Any, x: Any) -> Any:
    """Write DepthToSpace as Transposes and Reshapes with channels last, where runs are long."""
    return op.DepthToSpace(x, _more=True, _bind="shuffle")


@depth_to_space_by_runs.rewrite
def _(op: Builder, x: Operand, shuffle: ir.Node, ctx: PassContext) -> Replacement:
    objection = ctx.target.objection_to(RUNS, x.dtype)
    if objection is not None or x.dtype != ir.DataType.FLOAT or not has_blocked_layout(ctx.target):
        return NoMatch(objection or "the target has no blocked layout for it")
    if op.attribute(shuffle, "mode") != "DCR":
        return NoMatch("channels are counted first")
    scale, producer = op.attribute(shuffle, "blocksize"), x.value.producer()
    if x.dims is None or not isinstance(x.dims[1], int):
        return NoMatch("the number of channels is unknown")
    channels = x.dims[1] // scale**2
    if scale * channels < _SHORTEST:
        return NoMatch("the runs are short")
    parts = [x.value]
    if producer is not None and producer.op_type == "Concat":
        parts = [part for part in producer.inputs if part is not None]
    if not all(made_in_blocks(part) for part in parts):
        return NoMatch("no convolution in blocks is before it")
    if all(isinstance(dim, int) for dim in x.dims):
        return NoMatch("all sizes are known: the runtime would merge two of its Transposes")
    last = op.Transpose(x, perm=[0, 2, 3, 1])
    rows = op.Reshape(last, np.array([0, 0, 0, scale, scale * channels]))
    rows = op.Transpose(rows, perm=[0, 1, 3, 2, 4])
    height, width = _enlarged(x.dims[2:], scale)
    wide = op.Reshape(rows, np.array([0, 0, 0, width, channels]))
    # A Reshape copies sizes by position: the axis that goes leaves its place, to be squeezed.
    whole = op.Squeeze(op.Reshape(wide, np.array([0, height, 1, 0, channels])), np.array([2]))
    return op.Transpose(whole, perm=[0, 3, 1, 2])


@rule(opset=(13, None), may_lose=ROWS)
def depth_to_space_by_rows(op: Any, x: Any) -> Any:
    """Write DepthToSpace as a Transpose of columns and one of rows."""
    return op.DepthToSpace(x, _more=True, _bind="shuffle")


@depth_to_space_by_rows.rewrite
def _(op: Builder, x: Operand, shuffle: ir.Node, ctx: PassContext) -> Replacement:
    objection = ctx.target.objection_to(ROWS, x.dtype)
    if objection is not None or x.dtype != ir.DataType.FLOAT:
        return NoMatch(objection or "only float32 is known to be faster")
    if x.dims is None or not isinstance(x.dims[1], int):
        return NoMatch("the number of channels is unknown")
    if _made_for_it(x) and _is_activation(shuffle.outputs[0]):
        return NoMatch("an activation behind it goes first")
    scale = op.attribute(shuffle, "blocksize")
    channels = x.dims[1] // scale**2
    if op.attribute(shuffle, "mode") == "DCR":
        phases, rows = [scale, scale, channels], [0, 2, 3, 1, 4]
        columns = [0, 1, 3, 4, 5, 2]
    else:
        phases, rows = [channels, scale, scale], [0, 1, 3, 2, 4]
        columns = [0, 1, 2, 4, 5, 3]
    # A Reshape copies sizes by position: axes are put in and squeezed to hold the places.
    apart = op.Reshape(op.Unsqueeze(x, np.array([2, 3])), np.array([0, *phases, 0, 0]))
    height, width = _enlarged(x.dims[2:], scale)
    wide = op.Reshape(op.Transpose(apart, perm=columns), np.array([0, 0, 0, 0, width]))
    high = op.Reshape(op.Transpose(wide, perm=rows), np.array([0, 0, height, 1, 0]))
    return op.Squeeze(high, np.array([3]))


def _enlarged(sizes: Iterable[Any], scale: int) -> list[int]:
    """Return sizes times a scale, and -1 for what is unknown: a Reshape finds none of no maps."""
    return [size * scale if isinstance(size, int) else -1 for size in sizes]


def _made_for_it(x: Operand) -> bool:
    """Whether a convolution makes a map for nothing else."""
    producer = x.value.producer()
    return producer is not None and producer.op_type == "Conv" and x.uses == 1


def _is_activation(value: ir.Value) -> bool:
    users = tuple(value.consumers())
    return len(users) == 1 and users[0].domain == "" and users[0].op_type in ACTIVATIONS
