# SPDX-License-Identifier: Apache-2.0
"""`quant`: int8 for the operators where it pays. Each part is usable alone.

observers   ranges of activations, streamed          scheme      numbers <-> integers
collect     run a model and let observers watch      placement   where Q/DQ pairs go
schemes     the scale of each value of a plan        editor      a plan carried out
static      int8 from calibration data               dynamic     int8 without any
sensitivity what int8 costs in accuracy              mixed       what stays float, by measurement
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
        from burnish.passes.fuse.rows import ConvsToProducts
        from burnish.passes.quant.balance import Balance
        from burnish.passes.quant.implied import DropImplied
        from burnish.passes.quant.mixed import MixedPrecision
        from burnish.passes.quant.widen import NarrowDepthwise, WidenDepthwise

        options = {item.name: getattr(self, item.name) for item in fields(self)}
        search: tuple[Pass, ...] = (MixedPrecision(**options),)
        if self.mode != "dynamic":
            search = (WidenDepthwise(), *search, NarrowDepthwise())
            if self.ranges is None:  # which are of the values as they came
                shared = {item.name: options[item.name] for item in fields(Balance)}
                search = (Balance(**shared), *search)
        return (ConvsToProducts(), *search, *self.quantizers(), DropImplied(quantized=True))
