# SPDX-License-Identifier: Apache-2.0
"""Quantization parameters: how real numbers map to integers and back.

All schemes are affine (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, section 2.1):

    q = saturate(round_half_even(x / scale) + zero_point)        x ~ scale * (q - zero_point)

They differ in type, in whether zero lies in the middle, in what shares a scale, and in which
numbers may be a scale; see `Scheme`. Activations are uint8 and asymmetric by default, weights int8
and symmetric: the pair that CPU kernels have instructions for.

int16 halves the step of int8 eight times over, and of all operators ONNX Runtime's CPU provider
takes it in QuantizeLinear and DequantizeLinear alone (from opset 21 on, or in its own domain): what
lies between is computed in float. It serves to tell whether activations lose the accuracy, not to
gain speed there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from burnish.passes.quant.calibration.observers import Range

Array = np.ndarray[Any, np.dtype[Any]]
Integer = Literal["uint8", "int8", "uint16", "int16"]

# Products of two scales, and their reciprocals, stay normal float32 numbers.
_LEAST_SCALE = 2.0**-60
# An int32 bias leaves this much room for the sum of products it is added to.
_BIAS_BITS = 30


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point, for a whole tensor or for each slice along an axis.

    Attributes:
        scale: float32, positive; shape [] or [size of `axis`].
        zero_point: Of the quantized type; shape of `scale`.
        axis: Axis the parameters belong to, or None for the whole tensor.
    """

    scale: NDArray[np.float32]
    zero_point: Array
    axis: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The quantized type."""
        return self.zero_point.dtype

    @property
    def range(self) -> Range:
        """The numbers that do not saturate (of a per-tensor scheme)."""
        info = np.iinfo(self.dtype)
        scale, zero = float(self.scale), int(self.zero_point)
        return Range(scale * (info.min - zero), scale * (info.max - zero))

    def quantize(self, x: Array) -> Array:
        """Round to integers as ONNX's QuantizeLinear does."""
        info = np.iinfo(self.dtype)
        q = np.divide(x, self._along(self.scale, x.ndim), dtype=np.float32)
        np.rint(q, out=q)
        q += self._along(self.zero_point, x.ndim).astype(np.float32)
        np.clip(q, info.min, info.max, out=q)
        return q.astype(self.dtype)

    def dequantize(self, q: Array) -> NDArray[np.float32]:
        """Return the numbers that integers stand for, as ONNX's DequantizeLinear does."""
        zero = self._along(self.zero_point, q.ndim).astype(np.int32)
        real = (q.astype(np.int32) - zero).astype(np.float32) * self._along(self.scale, q.ndim)
        return real.astype(np.float32)

    def _along(self, values: Array, rank: int) -> Array:
        if self.axis is None:
            return values
        shape = [1] * rank
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True)
class Scheme:
    """A way to represent ranges of real numbers by integers.

    With the range widened to contain zero, so that zero is exact, [qmin, qmax] the integers in use:

        asymmetric   scale = (high - low) / (qmax - qmin)    zero_point = round(qmin - low / scale)
        symmetric    scale = max(-low, high) / qmax          zero_point = 0, unsigned 2**(bits-1)

    Symmetric integers reach from -qmax to qmax about the zero point, which is all of the type but
    its least number. A power-of-two scale is the next one that is no smaller, so that nothing
    saturates that did not (S. Jain et al., "Trained Quantization Thresholds", 2020, section 3.2):

        scale <- 2 ** ceil(log2(scale))

    Multiplying by it is a shift; it costs up to a bit of resolution.

    Attributes:
        dtype: The integers.
        symmetric: Zero lies in the middle.
        power_of_two: Scales are powers of two.
        largest: qmax of a symmetric scheme, if smaller than the type allows.
    """

    dtype: Integer = "uint8"
    symmetric: bool = False
    power_of_two: bool = False
    largest: int | None = None

    @property
    def levels(self) -> int:
        """How many integers are in use."""
        info = np.iinfo(self.dtype)
        return 2 * self._reach + 1 if self.symmetric else int(info.max) - int(info.min) + 1

    def params(self, values: Range) -> QuantParams:
        """Parameters of a whole tensor for a range; a range of nothing but zero has scale 1."""
        return self._params(values.low, values.high, None)

    def fit(self, array: Array, axis: int | None = None) -> QuantParams:
        """Parameters for all numbers of an array, of each slice along `axis` if one is given."""
        others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
        return self._params(array.min(axis=others), array.max(axis=others), axis)

    @property
    def _reach(self) -> int:
        bits = np.iinfo(self.dtype).bits
        return int(2 ** (bits - 1) - 1) if self.largest is None else self.largest

    def _params(self, low: ArrayLike, high: ArrayLike, axis: int | None) -> QuantParams:
        info = np.iinfo(self.dtype)
        low = np.minimum(np.asarray(low, np.float64), 0.0)
        high = np.maximum(np.asarray(high, np.float64), 0.0)
        span = np.maximum(-low, high) if self.symmetric else high - low
        scale = span / (self._reach if self.symmetric else int(info.max) - int(info.min))
        if self.power_of_two:
            scale = _next_power(scale)
        scale = np.where(span > 0, np.maximum(scale, _LEAST_SCALE), 1.0)
        if self.symmetric:
            zero = np.full(scale.shape, 0 if info.min < 0 else 2 ** (info.bits - 1))
        else:
            zero = np.clip(np.rint(info.min - low / scale), info.min, info.max)
            zero = np.where(span > 0, zero, 0)
        return QuantParams(scale.astype(np.float32), zero.astype(self.dtype), axis)


def activation_params(values: Range, dtype: DTypeLike = np.uint8) -> QuantParams:
    """Asymmetric parameters for a range, which is widened to contain zero.

    Zero is then represented exactly, as padding and Relu need, and a number inside the range is
    off by at most half a scale. A range that begins at zero keeps zero as its least integer, so
    that saturation does the work of a Relu.
    """
    return Scheme(np.dtype(dtype).name).params(values)  # type: ignore[arg-type]


def weight_bits(accumulator_bits: int) -> int:
    """Return the width of weights for kernels that add products in that many bits."""
    return 7 if accumulator_bits < 32 else 8


def weight_params(weights: Array, axis: int | None, bits: int = 8) -> QuantParams:
    """Symmetric int8 parameters from the largest magnitude, of each slice along `axis`.

    Args:
        weights: Of any shape.
        axis: Output channels, or None for one scale.
        bits: 8 uses [-127, 127]; 7 uses [-64, 64], so that sums of two products with uint8 fit
            in 16 bits.
    """
    if bits not in (7, 8):
        raise ValueError(f"bits must be 7 or 8, got {bits}")
    return Scheme("int8", symmetric=True, largest=127 if bits == 8 else 64).fit(weights, axis)


def fit_bias(
    scheme: QuantParams,
    weights: Array,
    bias: Array,
    input_scale: float,
    *,
    power_of_two: bool = False,
) -> QuantParams:
    """Change the weight scales of channels whose bias would not suit an int32 otherwise.

    A bias is stored in units of `input_scale * weight scale`. Where that would overflow, the
    channel's weights are negligible beside its bias, and a coarser scale is taken. Where all
    weights are zero, any scale will do, and one that represents the bias well is taken.

    Args:
        scheme: Parameters of the weights.
        weights: The weights.
        bias: One number a channel.
        input_scale: Scale of the activations.
        power_of_two: Scales have to stay powers of two.
    """
    least = np.abs(bias.astype(np.float64)) / (2.0**_BIAS_BITS * input_scale)
    others = None
    if scheme.axis is None:
        least = least.max()
    else:
        others = tuple(i for i in range(weights.ndim) if i != scheme.axis)
    only_bias = ~weights.any(axis=others) & (least > 0)
    scale = np.where(only_bias, least, np.maximum(scheme.scale, least))
    if power_of_two:
        scale = _next_power(scale)
    return replace(scheme, scale=np.maximum(scale, _LEAST_SCALE).astype(np.float32))


def _next_power(scale: Array) -> Array:
    """Return the least power of two that is no smaller."""
    mantissa, exponent = np.frexp(scale)
    power: Array = np.ldexp(1.0, exponent - (mantissa == 0.5))
    return power


def bias_params(weights: QuantParams, input_scale: float) -> QuantParams:
    """int32 parameters of a bias that is added to sums of products of inputs and weights."""
    scale = (weights.scale * np.float32(input_scale)).astype(np.float32)
    return QuantParams(scale, np.zeros(scale.shape, np.int32), 0 if scale.ndim else None)
