# SPDX-License-Identifier: Apache-2.0
"""Affine functions of the channels of a tensor, read from operators with constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.fuse.rescale import FLOATS, epsilon
from burnish.passes.rule import Builder, NoMatch, Operand


@dataclass(frozen=True)
class Channels:
    """Where the channels of a value are.

    Attributes:
        size: Number of channels.
        from_end: Their axis, counted from the last one, which is 1.
        rank: Number of dimensions; 1 where unknown, for what broadcasts to any.
    """

    size: int
    from_end: int
    rank: int

    def vector(self, array: np.ndarray) -> np.ndarray | None:
        """Return a constant that differs along channels at most as float64, [1] or [size]."""
        axis = array.ndim - self.from_end
        if array.ndim > self.rank or array.size not in (1, self.size):
            return None
        if array.size != 1 and (axis < 0 or array.shape[axis] != self.size):
            return None
        return array.reshape(-1).astype(np.float64)


@dataclass(frozen=True)
class Affine:
    """The function scale * x + shift; each float64, and one number or one a channel."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def scales(self) -> bool:
        """Whether it does more than shift."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether it does more than scale."""
        return bool((self.shift != 0).any())

    def after(self, first: Affine) -> Affine:
        """Return the function that applies `first` and then this."""
        with np.errstate(all="ignore"):
            return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)


_ONE, _ZERO = np.ones(()), np.zeros(())
IDENTITY = Affine(_ONE, _ZERO)
"""The function that changes nothing."""


def affine_of(
    op: Builder, node: ir.Node, value: ir.Value, channels: Channels | None = None
) -> Affine | NoMatch:
    """Read Add, Sub, Mul, Div or BatchNormalization as an affine function of its input `value`.

    Without `channels`, which BatchNormalization needs, the constants keep their shape.
    """
    if node.op_type == "BatchNormalization":
        assert channels is not None
        return _batch_norm(op, node, channels)
    left, right = node.inputs
    other = right if left is value else left
    assert other is not None
    array = as_array(other)
    if array is None:
        return NoMatch("the other operand is not constant")
    if other.dtype not in FLOATS:
        return NoMatch("integers are not folded")
    constant = array.astype(np.float64) if channels is None else channels.vector(array)
    if constant is None:
        return NoMatch("the constant differs along more than the channels")
    if constant.size == 0:
        return NoMatch("the constant is empty")
    with np.errstate(all="ignore"):
        match node.op_type:
            case "Add":
                made = Affine(_ONE, constant)
            case "Sub":
                made = Affine(_ONE, -constant) if left is value else Affine(-_ONE, constant)
            case "Mul":
                made = Affine(constant, _ZERO)
            case _ if left is value:
                made = Affine(1 / constant, _ZERO)
            case _:
                return NoMatch("the value is a divisor")
    if not (np.isfinite(made.scale).all() and np.isfinite(made.shift).all()):
        return NoMatch("the constant is not finite, or zero and a divisor")
    # Adding 2**23 to a float32 and taking it away again rounds to whole numbers, on purpose.
    if np.abs(made.shift).max() * epsilon(array.dtype) >= 1:
        return NoMatch("the shift is so large that adding it rounds")
    return made


def widens(affine: Affine, x: Operand, channels: Channels) -> bool:
    """Whether a constant might make one channel of `x` many, or give it more axes."""
    if x.dims is None or len(x.dims) != channels.rank:
        return True
    if max(affine.scale.size, affine.shift.size) == 1:
        return False
    return x.dims[-channels.from_end] != channels.size


def _batch_norm(op: Builder, node: ir.Node, channels: Channels) -> Affine | NoMatch:
    reason = batch_norm_trains(op, node)
    if reason is not None:
        return NoMatch(reason)
    if channels.rank - channels.from_end != 1:
        return NoMatch("BatchNormalization is over another axis")
    arrays = [as_array(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return NoMatch("parameters of BatchNormalization are not constant")
    gamma, beta, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
    if gamma.shape != (channels.size,):
        return NoMatch("parameters of BatchNormalization have another size")
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + op.attribute(node, "epsilon"))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return NoMatch("parameters of BatchNormalization are not finite")
    return Affine(scale, shift)


def batch_norm_trains(op: Builder, node: ir.Node) -> str | None:
    """Say why a BatchNormalization is not a fixed function of each channel, if it is not."""
    opset = op.opset_imports.get("", 1)
    if opset < 7 or op.attribute(node, "training_mode"):
        return "BatchNormalization is in training mode"
    if opset < 9 and op.attribute(node, "spatial") == 0:
        return "BatchNormalization has parameters for each position"
    return None
