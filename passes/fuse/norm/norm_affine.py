# SPDX-License-Identifier: Apache-2.0
"""A scale or a bias behind a normalization goes into it, past a Transpose too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.fuse.channels import Channels
from burnish.passes.fuse.rescale import rounded
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

_BY_CHANNEL = ("InstanceNormalization", "GroupNormalization")
_BIASED = ("LayerNormalization", *_BY_CHANNEL)
_NORMS = (*_BIASED, "RMSNormalization", "SimplifiedLayerNormalization")


def _norm(op: Any, names: tuple[str, ...], x: Any, w: Any, b: Any) -> Any:
    norm = op.one_of(*names)(x, w, b, _bind="norm")
    return op.either(op.Transpose(norm, _bind="moved"), norm)


@rule(opset=(7, None))
def norm_scale(op: Any, x: Any, c: Any, w: Any = const(), b: Any = optional()) -> Any:
    """Fold c * norm(x), or norm(x) / c, into the scale and the bias of the normalization."""
    return op.one_of("Mul", "Div")(_norm(op, _NORMS, x, w, b), c, _bind="root")


@norm_scale.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand | None,
    c: Operand,
    norm: ir.Node,
    moved: ir.Node | None,
    root: ir.Node,
) -> Replacement:
    assert w.array is not None
    multiplied = root.op_type == "Mul"
    plain = multiplied and b is None and moved is None
    if plain and c.static_dims == w.array.shape and (w.array == 1).all():
        return op.like(norm, x, c)
    row = _row(op, c, w.array.shape, x.rank, norm, moved)
    if isinstance(row, NoMatch):
        return row
    with np.errstate(all="ignore"):
        factor = row if multiplied else 1 / row
        scale = rounded(w.array * factor, w.array.dtype, factor=True)
    if isinstance(scale, NoMatch):
        return scale
    if b is None:
        return _again(op, moved, op.like(norm, x, scale))
    if b.array is None:
        return NoMatch("the bias is not constant")
    bias = rounded(b.array * factor, w.array.dtype)
    if isinstance(bias, NoMatch):
        return bias
    return _again(op, moved, op.like(norm, x, scale, bias))


@rule(opset=(7, None))
def norm_bias(op: Any, x: Any, c: Any, w: Any, b: Any = optional()) -> Any:
    """Fold norm(x) + c, or norm(x) - c, into the bias of the normalization."""
    return op.one_of("Add", "Sub")(_norm(op, _BIASED, x, w, b), c, _bind="root")


@norm_bias.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand | None,
    c: Operand,
    norm: ir.Node,
    moved: ir.Node | None,
    root: ir.Node,
) -> Replacement:
    if w.static_dims is None or w.dtype is None:
        return NoMatch("the normalized size is unknown")
    added = root.op_type == "Add"
    if added and b is None and moved is None and c.static_dims == w.static_dims:
        return op.like(norm, x, w, c)
    row = _row(op, c, w.static_dims, x.rank, norm, moved)
    if isinstance(row, NoMatch):
        return row
    if b is not None and b.array is None:
        return NoMatch("the bias is not constant")
    start = 0.0 if b is None or b.array is None else b.array
    bias = rounded(start + (row if added else -row), w.dtype.numpy())
    if isinstance(bias, NoMatch):
        return bias
    return _again(op, moved, op.like(norm, x, w, bias))


def _again(op: Builder, moved: ir.Node | None, y: ir.Value) -> ir.Value:
    return y if moved is None else op.like(moved, y)


def _row(
    op: Builder,
    constant: Operand,
    dims: tuple[int, ...],
    rank: int | None,
    norm: ir.Node,
    moved: ir.Node | None,
) -> np.ndarray | NoMatch:
    """Return a constant that is alike for everything normalized apart, shaped [*dims]."""
    array = constant.array
    if array is None:
        return NoMatch("the other operand is not constant")
    if moved is not None:
        perm = op.attribute(moved, "perm")
        if perm is None or array.ndim > len(perm):
            return NoMatch("the constant has more axes than what is normalized")
        array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        array = array.transpose(np.argsort(perm))
    if norm.op_type in _BY_CHANNEL:
        if rank is None:
            return NoMatch("the rank is unknown")
        vector = Channels(dims[0], rank - 1, rank).vector(array)
        if vector is None:
            return NoMatch("the constant differs along more than the channels")
        return np.broadcast_to(vector, dims)
    while array.ndim > len(dims) and array.shape[0] == 1:
        array = array[0]
    if array.ndim > len(dims):
        return NoMatch("the constant differs along more than the normalized axes")
    try:
        return np.broadcast_to(array.astype(np.float64), dims)
    except ValueError:
        return NoMatch("the constant has another shape than what is normalized")
