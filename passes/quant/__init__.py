# SPDX-License-Identifier: Apache-2.0
"""`quant`: int8 for the operators where it pays. Each part is usable alone.

observers   ranges of activations, streamed          scheme      numbers <-> integers
collect     run a model and let observers watch      placement   where Q/DQ pairs go
static      int8 from calibration data               dynamic     int8 without any
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.base import Group, Pass
from burnish.passes.options import option
from burnish.passes.quant.dynamic import QuantDynamic
from burnish.passes.quant.observers import METHODS
from burnish.passes.quant.ready import is_quantized
from burnish.passes.quant.static import QuantStatic
from burnish.passes.quant.tables import QuantTables

__all__ = ["Quant", "QuantDynamic", "QuantStatic", "QuantTables", "is_quantized"]


@dataclass(frozen=True)
class Quant(Group):
    """Int8 by what pays on the target.

    mode=auto quantizes Conv statically, if there is calibration data, and MatMul and Gemm
    dynamically: on CPUs that is as fast as static int8, and ranges follow each input.
    mode=static and mode=dynamic quantize everything they can in that one way. Large embedding
    tables become int8 in every mode.
    """

    name: ClassVar[str] = "quant"
    lossless: ClassVar[bool] = False

    mode: str = option("auto", help="which kind of int8", choices=("auto", "static", "dynamic"))
    calibrate: str = option(
        "percentile",
        help="how the ranges of activations are found",
        choices=tuple(METHODS),
    )
    percentile: float = option(
        99.99, help="percentage of numbers inside the range (calibrate=percentile)", min=50, max=100
    )
    ranges: str | None = option(
        None, help="file of ranges to use, from `burnish calibrate` or TensorRT"
    )
    per_channel: bool = option(True, help="one scale for each output channel of the weights")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def expand(self) -> tuple[Pass, ...]:
        """Return the static pass, the dynamic pass, or both, and the pass for tables."""
        auto = self.mode == "auto"
        static = QuantStatic(
            calibrate=self.calibrate,
            percentile=self.percentile,
            ranges=self.ranges,
            per_channel=self.per_channel,
            ops=("Conv",) if auto else QuantStatic.ops,
            exclude=self.exclude,
            optional=auto,
        )
        dynamic = QuantDynamic(per_channel=self.per_channel, exclude=self.exclude)
        tables = QuantTables(exclude=self.exclude)
        products = {"auto": (static, dynamic), "static": (static,), "dynamic": (dynamic,)}
        return (*products[self.mode], tables)
