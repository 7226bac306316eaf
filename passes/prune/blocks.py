# SPDX-License-Identifier: Apache-2.0
"""Depth pruning: whole residual blocks go, those that the outputs miss least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.prune import flops
from burnish.passes.prune.budget import Budgeted
from burnish.passes.prune.latency import Stopwatch
from burnish.passes.prune.recover import recover
from burnish.passes.prune.residual import Block, find_blocks, remove, without
from burnish.passes.prune.survivors import Survivors
from burnish.passes.prune.trials import Outputs
from burnish.passes.prune.weights import check_patterns
from burnish.passes.shapes import infer_shapes

_COUNTED = {"flops": flops.model_flops, "params": flops.model_parameters}


@dataclass(frozen=True)
class PruneBlocks(Budgeted):
    """Remove whole residual blocks, those that the outputs miss least.

    A block is a branch that is added (Add, Sum) to the one value it is computed from, of the same
    shape, and that nothing else reads; shapes and masks beside that value do not count. Without it
    the sum is that value. One after the other goes, always the one without which the model's
    outputs differ least on held-out calibration samples, for what is saved so far. (M. Men et al.,
    "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, drop
    layers of transformers; A. Veit et al., "Residual Networks Behave Like Ensembles of Relatively
    Shallow Networks", 2016, those of convolutional networks.) Of a block inside of another, both
    count.

    The report's `details` hold `flops` and `params` before, the share of each that is left as
    `flops_left` and `params_left`; `blocks`: of each its `name`, number of `nodes`, the `error`
    without it alone, if that was measured, and in which turn it was `removed`, or null; `error`,
    without all that went, and with recovery `recovered`, after what stays was fitted. Errors are
    relative: RMS of the difference of the outputs, by their standard deviation.
    """

    name: ClassVar[str] = "prune-blocks"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-blocks",)
    amount: ClassVar[str] = "count"

    count: int | None = option(None, help="how many to remove; 1 unless a budget is given", min=0)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find blocks, measure what the outputs lose, and remove.

        Raises:
            InputError: a pattern matches nothing, or there are no calibration data.
            BudgetError: the budget cannot be met.
        """
        if ctx.calibration is None:
            raise InputError(f"{self.name} needs calibration data", hint="give --calib")
        infer_shapes(model)
        if self.refuses(model, ctx):
            return
        blocks = self._candidates(model, ctx)
        if not blocks:
            return
        whole = model.clone()
        depth = Depth(whole, blocks, ctx.calibration, ctx)
        alone: dict[Block, float] = {}
        turns: dict[Block, int] = {}
        instead: set[ir.Value] = set()
        survivors = Survivors()
        for block in self._chosen(depth, alone, ctx):
            with ctx.rewrite(self.rule, block.join) as go:
                if go:
                    # What stands for an output of the model takes its name.
                    survivors.instead.add(block.join.outputs[0].name or "")
                    instead.add(remove(block.join, block.slot))
                    turns[block] = len(turns) + 1
        survivors.instead |= {value.name or "" for value in instead}
        for name, total in depth.totals.items():
            ctx.details[name] = total
            ctx.details[f"{name}_left"] = depth.counted(name, model) / (total or 1)
        ctx.details["blocks"] = [
            {
                "name": block.name,
                "nodes": len(block.nodes),
                "error": alone.get(block),
                "removed": turns.get(block),
            }
            for block in blocks
        ]
        ctx.details["error"] = depth.error(model)
        if turns and self.recover:
            account = recover(
                whole, model, survivors, ctx.calibration, seed=ctx.seed, progress=ctx.progress
            )
            ctx.details["recovery"] = account.summary()
            ctx.details["recovered"] = depth.error(model)

    def _candidates(self, model: ir.Model, ctx: PassContext) -> list[Block]:
        def refuse(node: ir.Node, reason: str) -> None:
            ctx.refuse(self.rule, node, reason)

        found = find_blocks(model.graph, refuse)
        check_patterns(model, self.exclude, [name for block in found for name in block.names])
        kept = []
        for block in found:
            if any(fnmatchcase(name, each) for name in block.names for each in self.exclude):
                refuse(block.join, "excluded")
            else:
                kept.append(block)
        if not kept:
            why = "all blocks are excluded" if found else "there are no residual blocks"
            ctx.warn(f"{self.name}: nothing to prune: {why}")
        return kept

    def _chosen(self, depth: Depth, alone: dict[Block, float], ctx: PassContext) -> Sequence[Block]:
        """Return the blocks to remove; fills in the errors without each alone."""
        goal = self.budget or self.amount
        wanted = getattr(self, goal)
        limit: float = wanted
        least = depth.left(goal, depth.blocks)
        reached = f"{least:.3g} is the least there is"
        if goal == "count":
            limit = len(depth.blocks) - (1 if wanted is None else wanted)
            reached = f"{len(depth.blocks)} is the most there is"
        if least > limit:
            self.missed(f"{goal}={wanted:g}", reached, ctx)
            return depth.blocks
        saving = "flops" if goal == "latency" else goal
        most = depth.left(saving, [])
        gone: list[Block] = []
        while depth.left(goal, gone) > limit:
            tries = [[*gone, block] for block in depth.standing(gone)]
            if goal == "count":
                tries = [each for each in tries if depth.left(goal, each) >= limit]
            prices = []
            for each in ctx.progress(tries, len(tries), f"{self.name}: {len(gone) + 1}"):
                error = depth.error(without(depth.model, each))
                saved = most - depth.left(saving, each)
                prices.append(error / saved if saved > 0 else math.inf)
                if not gone:
                    alone[each[-1]] = error
            gone = tries[int(np.argmin(prices))]
        for block in reversed(gone):  # what the last one made needless
            others = [each for each in gone if each is not block]
            if goal in _COUNTED and depth.left(goal, others) <= limit:
                gone = others
        return gone


class Depth:
    """A model without some of its blocks: what is left of it, and what its outputs lose.

    Args:
        model: The whole one; it is not changed.
        blocks: What may go; of this model or one that it was cloned from.
        samples: Held-out ones are run on.
        ctx: Takes the decisions on what was timed.

    Attributes:
        totals: What the whole one costs, by `flops` and `params`.
    """

    def __init__(
        self,
        model: ir.Model,
        blocks: Sequence[Block],
        samples: CalibrationSource,
        ctx: PassContext,
    ) -> None:
        self.model = model
        self.blocks = blocks
        self._sizes = flops.Sizes(model)
        self.totals = {name: self.counted(name, model) for name in _COUNTED}
        trials = len(blocks) * (len(blocks) + 1) / 2
        self._outputs = Outputs(model, samples, self.totals["flops"] * trials)
        self._watch = Stopwatch(model, ctx)

    def counted(self, name: str, model: ir.Model) -> int:
        """Return the floating-point operations, or the parameters, of a variant."""
        terms = _COUNTED[name](model)
        return sum(math.prod(map(self._sizes, term)) for term in terms) * (1 + (name == "flops"))

    def standing(self, gone: Sequence[Block]) -> list[Block]:
        """Return the blocks that are left without some: those inside of these go with them."""
        dead = {node for block in gone for node in (block.join, *block.nodes)}
        return [block for block in self.blocks if block.join not in dead]

    def left(self, goal: str, gone: Sequence[Block]) -> float:
        """Return what is left without some blocks: the number of blocks, or a share of the whole.

        Args:
            goal: `count`, `flops`, `params` or `latency`.
            gone: The blocks.
        """
        standing = self.standing(gone)
        if goal == "count":
            return len(standing)
        if not gone:
            return 1.0
        if goal == "latency":
            key = "blocks " + " ".join(str(self.blocks.index(block)) for block in standing)
            question = f"the model with {len(standing)} of {len(self.blocks)} blocks"
            return self._watch.left(key, question, lambda: without(self.model, gone))
        return self.counted(goal, without(self.model, gone)) / (self.totals[goal] or 1)

    def error(self, variant: ir.Model) -> float:
        """Return the relative RMS error of the outputs."""
        return math.sqrt(self._outputs.loss(variant))
