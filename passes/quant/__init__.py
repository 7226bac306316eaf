# SPDX-License-Identifier: Apache-2.0
"""`quant`: int8 for the operators where it pays. Each part is usable alone.

calibration/  what values a model computes on samples, and the ranges worth representing
accuracy/     what is done to the float model first, so that rounding costs it less
search/       what stays float, by measurement
int8/         where integers go, static and dynamic, and the forms that kernels ask for
weights/      weights alone: small in the file, float when the model runs
scheme        real numbers <-> integers
weighted      operators with constant weights, and where their output channels are
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from burnish.passes.base import Group, Pass
from burnish.passes.quant.recipe import Recipe


@dataclass(frozen=True)
class Quant(Recipe, Group):
    """Int8 by what pays on the target.

    mode=auto quantizes Conv statically, if there is calibration data, and MatMul and Gemm
    dynamically: on CPUs that is as fast as static int8, and ranges follow each input.
    mode=static and mode=dynamic quantize everything they can in that one way. Large embedding
    tables become int8 in every mode.

    What is measured slower than in float on this machine stays float, and with max_drop also what
    costs more accuracy than that.
    """

    name: ClassVar[str] = "quant"
    lossless: ClassVar[bool] = False

    def expand(self) -> tuple[Pass, ...]:
        """Return the members: what stays float is found, the rest quantized, and all made short."""
        # Some take parts of other folders, which take parts of this one.
        from burnish.passes.fuse.product.rows import ConvsToProducts
        from burnish.passes.quant.accuracy.balance import Balance
        from burnish.passes.quant.implied import DropImplied
        from burnish.passes.quant.int8.widen import NarrowDepthwise, WidenDepthwise
        from burnish.passes.quant.search.mixed import MixedPrecision

        options = {item.name: getattr(self, item.name) for item in fields(self)}
        search: tuple[Pass, ...] = (MixedPrecision(**options),)
        if self.mode != "dynamic":
            search = (WidenDepthwise(), *search, NarrowDepthwise())
            if self.ranges is None:  # which are of the values as they came
                shared = {item.name: options[item.name] for item in fields(Balance)}
                search = (Balance(**shared), *search)
        return (ConvsToProducts(), *search, *self.quantizers(), DropImplied(quantized=True))
