# SPDX-License-Identifier: Apache-2.0
"""How exporters spell a normalization: by a mean, a variance and a square root.

    (x - mean) / sqrt(variance + eps) * w + b         torch
    x * s + (b - mean * s), s = w / sqrt(variance + eps)      TensorFlow, JAX

with a variance of mean((x - mean)^2), or of mean(x^2) - mean^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.groups import splits_channels
from burnish.passes.fuse.scalar import is_scalar, number
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Rule

TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Element types of normalizations: their epsilon is an attribute, a float32."""


def square(op: Any, x: Any) -> Any:
    """Pattern of x^2."""
    return op.either(op.Pow(x, 2.0), op.Mul(x, x))


def root(op: Any, variance: Any, eps: Any) -> tuple[Any, Any]:
    """Patterns of sqrt(variance + eps), and of one over it; eps may be missing, which is 0."""
    shifted = op.either(op.Add(variance, eps), variance)
    deviation = op.either(op.Sqrt(shifted), op.Pow(shifted, 0.5))
    inverse = op.either(op.Reciprocal(deviation), op.Div(1.0, deviation), op.Pow(shifted, -0.5))
    return deviation, inverse


def centred_and_divided(op: Any, x: Any, eps: Any) -> Any:
    """Pattern of (x - mean) / deviation; binds the nodes `mean` and `variance`."""
    numerator, variance, _ = _moments(op, x)
    return op.Div(numerator, root(op, variance, eps)[0])


def centred_and_scaled(op: Any, x: Any, eps: Any, w: Any) -> Any:
    """Pattern of (x - mean) * (w / deviation), or without w."""
    numerator, variance, _ = _moments(op, x)
    inverse = root(op, variance, eps)[1]
    return op.Mul(numerator, op.either(op.Mul(inverse, w), inverse))


def scaled_and_shifted(op: Any, x: Any, eps: Any, w: Any, b: Any) -> Any:
    """Pattern of x * s + (b - mean * s) with s = w / deviation; w and b may be missing."""
    _, variance, mean = _moments(op, x)
    inverse = root(op, variance, eps)[1]
    scale = op.either(op.Mul(inverse, w), inverse)
    negative = op.Mul(op.Neg(mean), scale)
    shift = op.either(op.Add(negative, b), op.Sub(b, op.Mul(mean, scale)), negative)
    return op.Add(op.Mul(x, scale), shift)


def also_with_scale_and_bias(fused: Rule) -> None:
    """Give a rule on `centred_and_divided` the spellings with a scale, and with a bias, too."""

    @fused.also
    def _(op: Any, x: Any, w: Any, eps: Any = const(is_scalar)) -> Any:
        return centred_and_scaled(op, x, eps, w)

    @fused.also
    def _(op: Any, x: Any, w: Any, b: Any, eps: Any = const(is_scalar)) -> Any:
        return scaled_and_shifted(op, x, eps, w, b)


def _moments(op: Any, x: Any) -> tuple[Any, Any, Any]:
    """Patterns of x - mean, the variance, and the mean."""
    mean = op.ReduceMean(x, _more=True, _bind="mean")
    centred = op.Sub(x, mean)
    # Older exporters of torch subtract the mean twice.
    numerator = op.either(centred, op.Sub(x, mean))
    of_squares = op.Sub(
        op.ReduceMean(square(op, x), _more=True, _bind="variance"), square(op, mean)
    )
    variance = op.either(
        op.ReduceMean(square(op, centred), _more=True, _bind="variance"),
        op.Max(of_squares, 0.0),
        op.Relu(of_squares),
        of_squares,
    )
    return numerator, variance, mean


def epsilon(eps: Operand | None) -> float:
    """Return what is added to the variance."""
    return 0.0 if eps is None else number(eps)


def axes_of(op: Builder, mean: ir.Node, rank: int | None) -> tuple[int, ...] | NoMatch:
    """Return the axes that a ReduceMean is over, sorted and counted from 0."""
    if not op.attribute(mean, "keepdims"):
        return NoMatch("the mean drops its axes")
    axes = op.attribute(mean, "axes")
    if axes is None and len(mean.inputs) > 1:
        array = as_array(mean.inputs[1])
        if array is None:
            return NoMatch("the axes are not constant")
        axes = array.tolist()
    if rank is None:
        return NoMatch("the rank is unknown")
    if not axes:
        return NoMatch("the mean is over everything")
    return tuple(sorted(axis % rank for axis in axes))


def normalized_axes(
    op: Builder, x: Operand, mean: ir.Node, variance: ir.Node
) -> tuple[int, ...] | NoMatch:
    """Return the axes that mean and variance of `x` are both over."""
    if x.dtype not in TYPES:
        return NoMatch("the normalization takes its epsilon and its sums as float32")
    axes, others = (axes_of(op, node, x.rank) for node in (mean, variance))
    if not axes:
        return axes
    if axes == others:
        return axes
    return NoMatch("the mean and the variance are over different axes")


def is_centred(x: Operand) -> bool:
    """Whether `x` is something less its own mean."""
    difference = x.value.producer()
    if difference is None or difference.op_type != "Sub" or difference.inputs[1] is None:
        return False
    mean = difference.inputs[1].producer()
    if mean is None or mean.op_type != "ReduceMean":
        return False
    return mean.inputs[0] is difference.inputs[0]


def over_positions(x: Operand, axes: tuple[int, ...]) -> bool:
    """Whether these are all axes but samples and channels, or groups of channels.

    Of three axes the last is that of features, unless they are a map reshaped.
    """
    assert x.rank is not None
    return axes == tuple(range(2, x.rank)) and (x.rank > 3 or splits_channels(x))


def sizes(x: Operand, axes: tuple[int, ...]) -> tuple[int, ...] | NoMatch:
    """Return the sizes of some axes, which must be known numbers."""
    found = [dim for axis, dim in enumerate(x.dims or ()) if axis in axes and isinstance(dim, int)]
    if len(found) != len(axes):
        return NoMatch("the normalized size is unknown")
    if 0 in found:
        return NoMatch("nothing is normalized")
    return tuple(found)


def over_last(
    op: Builder, x: Operand, axes: tuple[int, ...], normalize: Callable[[Any, int], Any]
) -> Any:
    """Build normalize(x, axis), which is over the last axes, for the axis of channels too.

    Args:
        op: Of the rewrite.
        x: What is normalized.
        axes: As `axes_of` gives them.
        normalize: Takes what is normalized and the first axis it is over, counted from the end.
    """
    assert x.rank is not None
    if axes == tuple(range(x.rank - len(axes), x.rank)):
        return normalize(x, -len(axes))
    if axes != (1,):
        return NoMatch("the mean is not over the last axes, nor over the channels")
    forth, back = (0, *range(2, x.rank), 1), (0, x.rank - 1, *range(1, x.rank - 1))
    return op.Transpose(normalize(op.Transpose(x, perm=forth), -1), perm=back)


def finished(op: Builder, y: Any, w: Operand | None, b: Operand | None) -> Any:
    """Build y * w + b; either may be missing, and y may be a refusal."""
    if isinstance(y, NoMatch):
        return y
    scaled = y if w is None else op.Mul(y, w)
    return scaled if b is None else op.Add(scaled, b)
