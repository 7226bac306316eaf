# SPDX-License-Identifier: Apache-2.0
"""Mixed precision by measurement: which operators stay float, found before any is quantized.

Copies of the model are quantized, timed on this machine and compared with the float model; what
costs more than it brings is marked, and the passes that follow leave it float:

1. Residual sums are int8 too, if that is faster and adds little to the error on samples.
2. Latency. A kind of operator (3 x 3 convolutions of few channels, ...) whose int8 form makes the
   whole model slower stays float; one that has no weights to shrink (sums, gates, resizing,
   depthwise convolutions) does unless int8 makes the model faster. So does the beginning, where
   maps are large and have few channels, up to where that pays. If the model is then still slower
   than in float, all of it stays float.
3. Accuracy, with `max_drop`. One region at a time is quantized, on samples held out from
   calibration; then the fewest of the most sensitive regions that have to stay float are found by
   bisection.

Answers about time are kept and replayed as those of other decisions are (`burnish.passes.decide`).
Interrupted, it keeps the best found so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.quant.int8.static import OBSERVED, RESIDUAL
from burnish.passes.quant.int8.widen import FILLED
from burnish.passes.quant.ready import passed_through, raise_opset
from burnish.passes.quant.recipe import Recipe
from burnish.passes.quant.search.judge import Judge
from burnish.passes.quant.search.search import RULE, Search
from burnish.passes.quant.search.trials import Trials
from burnish.passes.quant.weighted import KEEP, SLOWER
from burnish.passes.shapes import infer_shapes


@dataclass(frozen=True)
class MixedPrecision(Recipe):
    """Decides by measurement what `quant` leaves float; see `burnish.passes.quant.search.mixed`."""

    name: ClassVar[str] = "mixed-precision"
    rule_names: ClassVar[tuple[str, ...]] = (RULE,)
    lossless: ClassVar[bool] = True  # by itself it changes nothing

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Mark the operators that stay float.

        Raises:
            InputError: `eval` cannot be used, or there is nothing to judge `max_drop` by.
        """
        decisions = ctx.decisions
        timing = decisions is not None and (decisions.measure or decisions.replay is not None)
        # Where int8 is another machine's, nothing can be timed; accuracy can be judged.
        timing = timing and ctx.target.provider == "CPUExecutionProvider"
        if (not timing and self.max_drop is None) or passed_through(model, ctx):
            return
        infer_shapes(model)
        judge = None if self.max_drop is None else Judge.of(self, model, ctx)
        calibration = ctx.calibration if judge is None else judge.calibration
        trials = Trials(self, model, ctx, calibration)
        if not trials.regions:
            return
        search = Search(trials, judge)
        try:
            if timing:
                search.by_time()
            if self.max_drop is not None:
                search.by_accuracy(self.max_drop, self.evaluations)
                if timing and search.kept:
                    search.unless_slower()
        except KeyboardInterrupt:
            search.interrupt()
        if not search.all_float:
            raise_opset(model, trials.opset, ctx)
        if trials.residual:
            model.meta[RESIDUAL] = True
        nodes = trials.matching(model)
        for index, reason in sorted(search.kept.items()):
            if index not in nodes:
                continue
            with ctx.rewrite(RULE, nodes[index]) as go:
                if go:
                    nodes[index].meta[KEEP] = reason
        if model.meta.get(FILLED):
            for index in trials.float_depthwise(search.kept):
                if index in nodes:
                    nodes[index].meta.setdefault(KEEP, SLOWER)
        if OBSERVED in trials.model.meta:
            model.meta[OBSERVED] = trials.model.meta[OBSERVED]
        ctx.details["mixed_precision"] = search.summary()
