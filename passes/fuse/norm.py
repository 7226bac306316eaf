# SPDX-License-Identifier: Apache-2.0
"""LayerNormalization and RMSNormalization in every spelling become one operator.

In steps, so that scale and bias may stand on either side, or not at all: first the normalization,
with a scale of ones; then a Mul behind it gives its scale, and an Add its bias.

Ratios of speed on ONNX Runtime 1.31.1, CPU, one thread, its own optimizations at their default, in
turns, shapes 1x40x120, 1x128x384 and 1x512x768: LayerNormalization 1.00 (the runtime finds the
usual spelling itself), RMSNormalization as current exporters write it 1.49 to 1.98.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.rescale import rounded
from burnish.passes.fuse.scalar import is_scalar, number
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SINCE = 17  # operator set of LayerNormalization
_RMS_SINCE = 23  # and of RMSNormalization


def _square(op: Any, x: Any) -> Any:
    return op.either(op.Pow(x, 2.0), op.Mul(x, x))


def _normalized(op: Any, x: Any, square_mean: Any, eps: Any) -> tuple[Any, ...]:
    """Patterns of x / sqrt(square_mean + eps)."""
    shifted = op.Add(square_mean, eps)
    deviation = op.either(op.Sqrt(shifted), op.Pow(shifted, 0.5))
    inverse = op.either(op.Reciprocal(deviation), op.Div(1.0, deviation), op.Pow(shifted, -0.5))
    return op.Div(x, deviation), op.Mul(x, inverse)


# --- LayerNormalization ------------------------------------------------------------------------


def _layer_norm(op: Any, x: Any, eps: Any) -> tuple[Any, ...]:
    mean = op.ReduceMean(x, _more=True, _bind="mean")
    centred = op.Sub(x, mean)
    # Older exporters of torch subtract the mean twice.
    numerator = op.either(centred, op.Sub(x, mean))
    variance = op.ReduceMean(_square(op, centred), _more=True, _bind="variance")
    return _normalized(op, numerator, variance, eps)


@rule(opset=(_SINCE, None))
def layer_norm(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    """Fuse (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) into LayerNormalization."""
    return _layer_norm(op, x, eps)[0]


@layer_norm.also
def _(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    return _layer_norm(op, x, eps)[1]


@layer_norm.rewrite
def _(op: Builder, x: Operand, eps: Operand, mean: ir.Node, variance: ir.Node) -> Replacement:
    axes, others = _trailing_axes(op, mean, x), _trailing_axes(op, variance, x)
    if not axes:
        return axes
    if others != axes:
        return NoMatch("the mean and the variance are over different axes")
    return op.LayerNormalization(x, _ones(x, axes), axis=-len(axes), epsilon=number(eps))


# --- RMSNormalization --------------------------------------------------------------------------


def _rms_norm(op: Any, x: Any, eps: Any) -> tuple[Any, ...]:
    return _normalized(op, x, op.ReduceMean(_square(op, x), _more=True, _bind="mean"), eps)


@rule(opset=(7, None))
def rms_norm(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    """Fuse x / sqrt(mean(x^2) + eps) into RMSNormalization."""
    return _rms_norm(op, x, eps)[0]


@rms_norm.also
def _(op: Any, x: Any, eps: Any = const(is_scalar)) -> Any:
    return _rms_norm(op, x, eps)[1]


@rms_norm.rewrite
def _(op: Builder, x: Operand, eps: Operand, mean: ir.Node) -> Replacement:
    axes = _trailing_axes(op, mean, x)
    if not axes:
        return axes
    standard = op.opset_imports.get("", 1) >= _RMS_SINCE
    # The runtime's own name for it, in the domain the runtime registers it in.
    make = op.RMSNormalization if standard else op.SimplifiedLayerNormalization
    return make(x, _ones(x, axes), axis=-len(axes), epsilon=number(eps))


# --- scale and bias ----------------------------------------------------------------------------

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@rule(opset=(7, None))
def norm_scale(op: Any, x: Any, c: Any, w: Any = const(), b: Any = optional()) -> Any:
    """Fold c * norm(x), or norm(x) / c, into the scale and the bias of the normalization."""
    return op.one_of("Mul", "Div")(op.one_of(*_NORMS)(x, w, b, _bind="norm"), c, _bind="root")


@norm_scale.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand | None,
    c: Operand,
    norm: ir.Node,
    root: ir.Node,
) -> Replacement:
    assert w.array is not None
    multiplied = root.op_type == "Mul"
    if multiplied and b is None and c.static_dims == w.array.shape and (w.array == 1).all():
        return op.like(norm, x, c)
    row = _row(c, w.array.shape)
    if isinstance(row, NoMatch):
        return row
    with np.errstate(all="ignore"):
        factor = row if multiplied else 1 / row
        scale = rounded(w.array * factor, w.array.dtype, factor=True)
    if isinstance(scale, NoMatch):
        return scale
    if b is None:
        return op.like(norm, x, scale)
    if b.array is None:
        return NoMatch("the bias is not constant")
    bias = rounded(b.array * factor, w.array.dtype)
    return bias if isinstance(bias, NoMatch) else op.like(norm, x, scale, bias)


@rule(opset=(_SINCE, None))
def norm_bias(op: Any, x: Any, c: Any, w: Any, b: Any = optional()) -> Any:
    """Fold norm(x) + c, or norm(x) - c, into the bias of the normalization."""
    return op.one_of("Add", "Sub")(op.LayerNormalization(x, w, b, _bind="norm"), c, _bind="root")


@norm_bias.rewrite
def _(
    op: Builder,
    x: Operand,
    w: Operand,
    b: Operand | None,
    c: Operand,
    norm: ir.Node,
    root: ir.Node,
) -> Replacement:
    if w.static_dims is None or w.dtype is None:
        return NoMatch("the normalized size is unknown")
    added = root.op_type == "Add"
    if added and b is None and c.static_dims == w.static_dims:
        return op.like(norm, x, w, c)
    row = _row(c, w.static_dims)
    if isinstance(row, NoMatch):
        return row
    if b is not None and b.array is None:
        return NoMatch("the bias is not constant")
    start = 0.0 if b is None or b.array is None else b.array
    bias = rounded(start + (row if added else -row), w.dtype.numpy())
    return bias if isinstance(bias, NoMatch) else op.like(norm, x, w, bias)


def _row(constant: Operand, dims: tuple[int, ...]) -> np.ndarray | NoMatch:
    """Return a constant that is alike for everything normalized apart, shaped [*dims]."""
    array = constant.array
    if array is None:
        return NoMatch("the other operand is not constant")
    while array.ndim > len(dims) and array.shape[0] == 1:
        array = array[0]
    if array.ndim > len(dims):
        return NoMatch("the constant differs along more than the normalized axes")
    try:
        return np.broadcast_to(array.astype(np.float64), dims)
    except ValueError:
        return NoMatch("the constant has another shape than what is normalized")


def _trailing_axes(op: Builder, mean: ir.Node, x: Operand) -> tuple[int, ...] | NoMatch:
    """Return the last axes, counted from the end, that a ReduceMean of `x` is over."""
    if not op.attribute(mean, "keepdims"):
        return NoMatch("the mean drops its axes")
    axes = op.attribute(mean, "axes")
    if axes is None and len(mean.inputs) > 1:
        array = as_array(mean.inputs[1])
        if array is None:
            return NoMatch("the axes are not constant")
        axes = array.tolist()
    if x.dtype not in _TYPES:
        return NoMatch("the normalization takes its epsilon and its sums as float32")
    if x.rank is None:
        return NoMatch("the rank is unknown")
    if not axes:
        return NoMatch("the mean is over everything")
    found = tuple(sorted(axis if axis < 0 else axis - x.rank for axis in axes))
    if found != tuple(range(-len(found), 0)):
        return NoMatch("the mean is not over the last axes")
    if x.dims is None or not all(isinstance(dim, int) for dim in x.dims[found[0] :]):
        return NoMatch("the normalized size is unknown")
    return found


def _ones(x: Operand, axes: Sequence[int]) -> np.ndarray:
    assert x.dims is not None
    assert x.dtype is not None
    sizes = [dim for dim in x.dims[axes[0] :] if isinstance(dim, int)]
    return np.ones(sizes, x.dtype.numpy())


@dataclass(frozen=True)
class FuseNorm(RulePass):
    """Fuse spelled-out LayerNormalization and RMSNormalization into one operator each."""

    name: ClassVar[str] = "fuse-norm"
    rules: ClassVar[tuple[Rule, ...]] = (layer_norm, rms_norm, norm_scale, norm_bias)
