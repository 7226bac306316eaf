# SPDX-License-Identifier: Apache-2.0
"""How long a model takes with some of its units gone: measured, in turns with the whole one.

Each answer is one of the build's decisions: it is kept for this machine, stands in the report, and
can be replayed, so that the same model comes out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.prune.coupling import Indices, couplings_of
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.plan import Candidate, Counts
from burnish.passes.prune.units import Units

if TYPE_CHECKING:
    from burnish.backends.answers import Answer

_SECONDS = 0.7  # for one answer, unless that is too short for the fewest rounds
_FEWEST_ROUNDS = 8
_ROUNDS = 400
_THREADS = 1


class Stopwatch:
    """Times variants of a model against the whole one.

    Args:
        model: The whole one; it is not changed.
        ctx: Takes the decisions; its first calibration sample, if any, is what is run.
    """

    def __init__(self, model: ir.Model, ctx: PassContext) -> None:
        self.model = model
        self.ctx = ctx
        self._known: dict[str, float] = {}
        self._digest = _digest(model)

    def left(self, key: str, question: str, variant: Callable[[], ir.Model]) -> float:
        """Return the share of the time that is left.

        Args:
            key: What tells the variant from others of this model.
            question: The variant in words, for the report.
            variant: Makes it.

        Raises:
            InputError: nothing can be measured here for the target.
        """
        if key not in self._known:
            self._known[key] = self._asked(key, question, variant)
        return self._known[key]

    def _asked(self, key: str, question: str, variant: Callable[[], ir.Model]) -> float:
        from burnish.passes.decide import Decision, Decisions

        ctx = self.ctx
        taken = ctx.decisions
        if taken is None:
            taken = Decisions.start(self.model, ctx, measure=True)
        asked = Decision(
            key=hashlib.sha256(f"{self._digest} {key}".encode()).hexdigest(),
            question=question,
            rule="latency",
            operator="",
            shapes=[],
            dtype="",
        )
        answer = taken.ask(asked, lambda: self._timed(variant()))
        if answer.ratio is None:
            raise InputError(
                f"latency cannot be had: {answer.note or 'it was not measured'}",
                hint="let it be measured on the target, or give flops=",
            )
        return 1 / answer.ratio

    def _timed(self, variant: ir.Model) -> Answer:
        from burnish.backends.answers import Answer
        from burnish.backends.feeds import random_run
        from burnish.backends.measure import compare
        from burnish.backends.onnxruntime import session

        samples = self.ctx.calibration
        with (
            session(self.model, threads=_THREADS, optimize="all") as before,
            session(variant, threads=_THREADS, optimize="all") as after,
        ):
            feeds = random_run(before).feeds if samples is None else next(iter(samples))
            sides = {"before": before, "after": after}
            compare(sides, feeds, repeats=1, warmup=1)  # what is done on the first runs alone
            started = time.perf_counter()
            compare(sides, feeds, repeats=1, warmup=0)
            fewest = _FEWEST_ROUNDS * (time.perf_counter() - started)
            budget = max(_SECONDS, fewest)
            found = compare(sides, feeds, repeats=_ROUNDS, warmup=0, budget=budget)["after"]
        return Answer(found.speedup, found.low, found.high)


class Cuts:
    """Times a model with some of its units gone.

    Args:
        model: The whole one; it is not changed.
        candidates: What may be cut.
        orders: Of each, places of its units, the first to go first.
        ctx: See `Stopwatch`.
    """

    def __init__(
        self,
        model: ir.Model,
        candidates: Sequence[Candidate],
        orders: Sequence[Indices],
        ctx: PassContext,
    ) -> None:
        self.model = model
        self.candidates = candidates
        self.orders = orders
        self._watch = Stopwatch(model, ctx)

    def left(self, gone: Counts) -> float:
        """Return the share of the time that is left, with so many units of each candidate gone.

        Raises:
            InputError: nothing can be measured here for the target.
        """
        if not np.any(gone):
            return 1.0
        kept = [each.count - int(less) for each, less in zip(self.candidates, gone, strict=True)]
        whole = sum(candidate.count for candidate in self.candidates)
        question = f"the model with {sum(kept)} of {whole} units"
        return self._watch.left(" ".join(map(str, kept)), question, lambda: self._cut(gone))

    def _cut(self, gone: Counts) -> ir.Model:
        copy = self.model.clone()
        removed = [
            candidate.group.units[np.sort(order[:less])]
            for candidate, order, less in zip(self.candidates, self.orders, gone, strict=True)
        ]
        # Units are numbered in the order of the graph, which the copy has too.
        Cut(Units(couplings_of(copy)), np.concatenate(removed)).apply(copy)
        return copy


def _digest(model: ir.Model) -> str:
    """Return a digest of the operators and sizes that the time depends on."""
    sha = hashlib.sha256()
    for node in model.graph:
        shapes = [None if v is None else str(v.shape) for v in (*node.inputs, *node.outputs)]
        sha.update(f"{node.domain} {node.op_type} {sorted(node.attributes)} {shapes}".encode())
    return sha.hexdigest()
