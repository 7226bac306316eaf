# SPDX-License-Identifier: Apache-2.0
"""Which integers stand for activations and weights, checked against what a target takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.quant.scheme import Scheme, weight_bits

if TYPE_CHECKING:
    from burnish.backends.target import Target
    from burnish.passes.quant.scheme import Integer

ACTIVATIONS = ("auto", "uint8", "int8", "uint16", "int16")
WEIGHTS = ("int8", "uint8")

_OPSET = 13  # the first with Q and DQ by channel
_OPSET_16_BITS = 21


@dataclass(frozen=True)
class Integers:
    """Schemes of activations and weights that go together.

    Attributes:
        activations: Of whole tensors.
        weights: Of whole tensors or output channels; zero lies in the middle.
        opset: The first whose QuantizeLinear and DequantizeLinear have both.
        warning: What a user should know of the choice; or None.
    """

    activations: Scheme
    weights: Scheme
    opset: int
    warning: str | None = None


def integers_for(
    target: Target,
    *,
    activations: str = "auto",
    symmetric: bool = False,
    weights: str = "int8",
    power_of_two: bool = False,
) -> Integers:
    """Choose schemes for a target.

    int8 weights keep to 7 bits where the target adds products in 16; uint8 ones need not, since
    kernels for two unsigned operands widen first.

    Args:
        target: What will run the model.
        activations: One of `ACTIVATIONS`; auto is what the target's int8 kernels take.
        symmetric: Zero lies in the middle of the integers of activations, too.
        weights: One of `WEIGHTS`.
        power_of_two: All scales are powers of two.

    Raises:
        InputError: the target does not run that.
    """
    form = target.int8
    dtype = ("int8" if form.symmetric else "uint8") if activations == "auto" else activations
    wide = dtype.endswith("16")
    if form.symmetric and (dtype, weights) != ("int8", "int8"):
        raise InputError(
            f"target {target.name} takes int8 activations and weights alone, not {dtype} and "
            f"{weights}",
            hint="leave out activations= and weights=, or choose another target",
        )
    if wide and not _runs(target, dtype):
        raise InputError(
            f"target {target.name} has no QuantizeLinear to {dtype}",
            hint="activations=uint8 or activations=int8 run everywhere",
        )
    if dtype == "int8" and weights == "uint8":
        raise InputError(
            "no int8 kernel takes int8 activations with uint8 weights",
            hint="use weights=int8, or activations=uint8",
        )
    bits = weight_bits(target.int8_accumulator_bits)
    return Integers(
        Scheme(
            cast("Integer", dtype), symmetric=symmetric or form.symmetric, power_of_two=power_of_two
        ),
        Scheme(
            cast("Integer", weights),
            symmetric=True,
            power_of_two=power_of_two,
            largest=64 if weights == "int8" and bits == 7 else None,
        ),
        _OPSET_16_BITS if wide else _OPSET,
        _warning(target, dtype, symmetric),
    )


def _warning(target: Target, dtype: str, symmetric: bool) -> str | None:
    """Return what the choice costs in speed, if it does."""
    if dtype.endswith("16"):
        return (
            f"target {target.name} has no kernels for {dtype}: what lies between is computed in "
            "float, which shows what activations cost in accuracy and gains no speed"
        )
    if symmetric and target.int8.results:  # saturation at the least integer does what a Relu does
        return (
            f"target {target.name} has no kernels for a Relu with symmetric integers: what such a "
            "Relu follows is computed in float"
        )
    return None


def _runs(target: Target, dtype: str) -> bool:
    of = ir.DataType[dtype.upper()]
    return target.max_opset >= _OPSET_16_BITS and target.runs(
        "DequantizeLinear", opset=_OPSET_16_BITS, dtype=of
    )
