# SPDX-License-Identifier: Apache-2.0
"""GroupNormalization: as InstanceNormalization of joined channels, spelled out, or as itself.

ONNX Runtime 1.31.1, CPU, one thread, its own optimizations at their default, in turns, shapes from
2x32x16x16 to 1x320x64x64: GroupNormalization, which the runtime expands into the operators of its
definition, runs at 0.53 to 0.60 of the speed of Reshape, InstanceNormalization, Reshape, Mul, Add.
With Mul and Add as BatchNormalization (see `channel_affine`), these run at 1.26 to 1.63.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.fuse.groups import groups_first, groups_last, restores
from burnish.passes.fuse.norm import moments
from burnish.passes.fuse.scalar import is_scalar
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_NAME = "GroupNormalization"
_SINCE = 21  # operator set of GroupNormalization with a scale for each channel


@rule(opset=(7, None))
def group_norm(op: Any, x: Any, w: Any = const(), b: Any = const()) -> Any:
    """Fuse InstanceNormalization between Reshapes into GroupNormalization, or drop these."""
    flat = op.Reshape(x, _more=True, _bind="flatten")
    return op.Reshape(op.InstanceNormalization(flat, w, b, _bind="norm"), _more=True, _bind="root")


@group_norm.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand,
    flatten: ir.Node,
    norm: ir.Node,
    root: ir.Node,
    ctx: PassContext,
) -> Replacement:
    flat = Operand(flatten.outputs[0])
    sizes = groups_first(x, flat)
    if not sizes:
        return sizes
    groups, members = sizes
    if not restores(x, root):
        return NoMatch("the shape behind is not known to be the shape before")
    if members == 1:
        return op.like(norm, x, w, b)
    objection = ctx.target.objection_to(_NAME, x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if op.opset_imports.get("", 1) < _SINCE:
        return NoMatch(f"{_NAME} with a scale for each channel is of opset {_SINCE}")
    assert w.array is not None
    assert b.array is not None
    scale, bias = (np.repeat(array, members) for array in (w.array, b.array))
    epsilon = op.attribute(norm, "epsilon")
    return op.GroupNormalization(x, scale, bias, num_groups=groups, epsilon=epsilon)


@rule(opset=(18, None))
def expand_group_norm(op: Any, x: Any, w: Any, b: Any) -> Any:
    """Expand GroupNormalization for a target that runs InstanceNormalization faster."""
    return op.GroupNormalization(x, w, b, _bind="norm")


@expand_group_norm.rewrite
def _(
    op: Builder, x: Operand, w: Operand, b: Operand, norm: ir.Node, ctx: PassContext
) -> Replacement:
    if ctx.target.objection_to(_NAME, x.dtype) is None:
        return NoMatch("the target runs it as it is")
    if x.rank is None or x.dims is None or not isinstance(x.dims[1], int):
        return NoMatch("the number of channels is unknown")
    groups, epsilon = op.attribute(norm, "num_groups"), op.attribute(norm, "epsilon")
    if groups == x.dims[1]:
        return op.InstanceNormalization(x, w, b, epsilon=epsilon)
    if op.opset_imports.get("", 1) < _SINCE:  # scale and bias are those of the groups
        return _by_groups(op, x, groups, epsilon, w, b)
    y = _by_groups(op, x, groups, epsilon)
    return op.Add(op.Mul(y, _column(op, w, x.rank)), _column(op, b, x.rank))


def _grouped(op: Any, x: Any) -> Any:
    return op.Reshape(x, _more=True, _bind="split")


@rule(opset=(7, None))
def group_norm_spelled(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    """Fuse the normalization of grouped channels, first or last, into InstanceNormalization."""
    y = moments.centred_and_divided(op, _grouped(op, x), eps)
    return op.Reshape(y, _more=True, _bind="root")


@group_norm_spelled.also
def _(op: Any, x: Any, w: Any = const(), eps: Any = const(is_scalar)) -> Any:
    y = moments.centred_and_scaled(op, _grouped(op, x), eps, w)
    return op.Reshape(y, _more=True, _bind="root")


@group_norm_spelled.also
def _(op: Any, x: Any, w: Any = const(), b: Any = const(), eps: Any = const(is_scalar)) -> Any:
    y = moments.scaled_and_shifted(op, _grouped(op, x), eps, w, b)
    return op.Reshape(y, _more=True, _bind="root")


@group_norm_spelled.rewrite
def _(
    op: Builder,
    x: Operand,
    eps: Operand | None,
    w: Operand | None,
    b: Operand | None,
    split: ir.Node,
    mean: ir.Node,
    variance: ir.Node,
    root: ir.Node,
) -> Replacement:
    inner = Operand(split.outputs[0])
    axes = moments.normalized_axes(op, inner, mean, variance)
    if not axes:
        return axes
    assert inner.rank is not None
    last = axes == (*range(1, inner.rank - 2), inner.rank - 1)
    if not last and axes != tuple(range(2, inner.rank)):
        return NoMatch("the mean is not over groups of channels")
    sizes = (groups_last if last else groups_first)(x, inner)
    if not sizes:
        return sizes
    if not restores(x, root):
        return NoMatch("the shape behind is not known to be the shape before")
    assert x.rank is not None
    rows = [_channels(item, inner, sizes, last) for item in (w, b)]
    if any(isinstance(row, NoMatch) for row in rows):
        return next(row for row in rows if isinstance(row, NoMatch))
    forth, back = (0, x.rank - 1, *range(1, x.rank - 1)), (0, *range(2, x.rank), 1)
    first = Operand(op.Transpose(x, perm=forth)) if last else x
    if last:
        assert x.dims is not None
        assert x.dtype is not None
        first.value.dtype = x.dtype
        first.value.shape = ir.Shape([x.dims[axis] for axis in forth])
    y = _by_groups(op, first, sizes[0], moments.epsilon(eps))
    for row, apply in zip(rows, (op.Mul, op.Add), strict=True):
        if isinstance(row, np.ndarray):
            y = apply(y, row.reshape(-1, *(1,) * (x.rank - 2)))
    return op.Transpose(y, perm=back) if last else y


def _by_groups(
    op: Builder,
    x: Operand,
    groups: int,
    epsilon: float,
    w: Operand | None = None,
    b: Operand | None = None,
) -> ir.Value:
    """Build the normalization of `x`, [N, C, ...], with a scale and a bias for each group."""
    assert x.dims is not None
    assert x.dtype is not None
    kind = x.dtype.numpy()
    flat = op.Reshape(x, np.array([0, groups, -1]))
    scale, bias = w or np.ones(groups, kind), b or np.zeros(groups, kind)
    y = op.InstanceNormalization(flat, scale, bias, epsilon=epsilon)
    rest = [dim for dim in x.dims[1:] if isinstance(dim, int)]
    known = len(rest) == len(x.dims) - 1
    made: ir.Value = op.Reshape(y, np.array([0, *rest]) if known else op.Shape(x))
    return made


def _column(op: Builder, vector: Operand, rank: int) -> Any:
    """Shape a vector so that it broadcasts along the channels of [N, C, ...]."""
    if vector.array is not None:
        return vector.array.reshape(-1, *(1,) * (rank - 2))
    return op.Unsqueeze(vector, np.arange(1, rank - 1))


def _channels(
    constant: Operand | None, split: Operand, sizes: tuple[int, int], last: bool
) -> np.ndarray | NoMatch | None:
    """Return a constant as one number for each channel, [C]; it broadcasts to the split shape."""
    if constant is None:
        return None
    assert constant.array is not None
    assert split.rank is not None
    groups, members = sizes
    array = constant.array
    if array.ndim > split.rank:
        return NoMatch("the constant differs along more than the channels")
    array = array.reshape((1,) * (split.rank - array.ndim) + array.shape)
    pair = array.shape[-2:] if last else array.shape[1:3]
    if math.prod(pair) != array.size or pair[0] not in (1, groups) or pair[1] not in (1, members):
        return NoMatch("the constant differs along more than the channels")
    return np.broadcast_to(array.reshape(pair), sizes).reshape(-1)
