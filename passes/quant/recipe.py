# SPDX-License-Identifier: Apache-2.0
"""The options of `quant`, and the passes that they stand for."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from burnish.passes.base import Pass
from burnish.passes.options import option, same_as
from burnish.passes.quant.int8.dynamic import QuantDynamic
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.quant.int8.tables import QuantTables
from burnish.passes.quant.weights.stored import StoreInt8


@dataclass(frozen=True)
class Recipe(Pass, ABC):
    """What to make int8, and how; shared by all passes that have to know it."""

    mode: str = option("auto", help="which kind of int8", choices=("auto", "static", "dynamic"))
    calibrate: str = same_as(QuantStatic, "calibrate")
    percentile: float = same_as(QuantStatic, "percentile")
    ranges: str | None = same_as(QuantStatic, "ranges")
    per_channel: bool = same_as(QuantStatic, "per_channel")
    exclude: tuple[str, ...] = same_as(QuantStatic, "exclude")
    max_drop: float | None = option(
        None,
        help="largest relative drop of `eval` allowed, e.g. 0.01; what costs more stays float",
        min=0,
        max=1,
    )
    eval: str | None = option(
        None,
        help="`module:function` that scores a runner, higher is better; default: agreement with "
        "the float model",
    )
    evaluations: int = option(
        120, help="most models to try for max_drop, each on the held-out samples", min=4
    )

    def quantizers(self) -> tuple[Pass, ...]:
        """Return the static pass, the dynamic pass, or both, and what makes the rest small."""
        auto = self.mode == "auto"
        static = QuantStatic(
            calibrate=self.calibrate,
            percentile=self.percentile,
            ranges=self.ranges,
            per_channel=self.per_channel,
            ops=("Conv",) if auto else QuantStatic.ops,
            along=("MatMul", "Gemm") if auto else (),
            exclude=self.exclude,
            optional=auto,
        )
        dynamic = QuantDynamic(per_channel=self.per_channel, exclude=self.exclude)
        tables = QuantTables(exclude=self.exclude)
        products = {"auto": (static, dynamic), "static": (static,), "dynamic": (dynamic,)}
        return (*products[self.mode], tables, StoreInt8(exclude=self.exclude))
