# SPDX-License-Identifier: Apache-2.0
"""Structured pruning: channels, heads and neurons are cut out, and the model is smaller for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.edit import drop_initializer, names_of, use_count
from burnish.passes.fuse.conv.blocked import block_size
from burnish.passes.options import option
from burnish.passes.prune import plan
from burnish.passes.prune.budget import Budgeted
from burnish.passes.prune.coupling import couplings_of
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.importance import CRITERIA, is_matrix
from burnish.passes.prune.plan import CONVOLUTIONS, Candidate, Cost, Counts
from burnish.passes.prune.rank import MEASURED, Ranking, rank
from burnish.passes.prune.units import Units
from burnish.passes.prune.weights import check_patterns
from burnish.passes.shapes import infer_shapes

_DEFAULT_RATIO = 0.25


@dataclass(frozen=True)
class Structured(Budgeted):
    """Cut out what matters least; subclasses say of which structure."""

    amount: ClassVar[str] = "ratio"
    structure: ClassVar[str]
    noun: ClassVar[str]

    ratio: float | None = option(
        None, help="share of each group to cut; 0.25 unless a budget is given", min=0, max=1
    )
    scope: str = option(
        "auto",
        help="compare within each group; across all by scores relative to the group's mean; or "
        "cut each group as far as measured outputs of the model bear it; auto: measured for a "
        "budget with calibration data, else group",
        choices=("auto", "group", "global", "sensitivity"),
    )
    criterion: str = option(
        "auto",
        help="what is cut first: the least by this; auto: reconstruction with calibration data, "
        "else l2",
        choices=CRITERIA,
    )

    @property
    def alignment(self) -> int | None:
        """What kept counts are multiples of; None for what the runtime computes at a time."""
        return 1

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find groups of units, rank them, choose, and cut.

        Raises:
            InputError: a pattern matches nothing, or samples are needed that there are not.
            BudgetError: the budget cannot be met.
        """
        infer_shapes(model)
        if self.refuses(model, ctx):
            return
        copies = _unshare(model)
        units = Units(couplings_of(model))
        candidates = self._candidates(model, units, ctx)
        if candidates:
            ranked = self._ranked(model, units, candidates, ctx)
            gone = self._choose(model, units, candidates, ranked, ctx)
            removed = self._gate(model, units, candidates, ranked, gone, ctx)
            if removed.size:
                self._cut(model, Cut(units, removed), ctx)
        _share(model, copies)

    def _cut(self, model: ir.Model, cut: Cut, ctx: PassContext) -> None:
        if not self.recover or ctx.calibration is None:
            cut.apply(model)
            return
        from burnish.passes.prune.recover import recover
        from burnish.passes.prune.survivors import Survivors

        whole, survivors = model.clone(), Survivors()
        survivors.cut(cut)
        cut.apply(model)
        account = recover(
            whole, model, survivors, ctx.calibration, seed=ctx.seed, progress=ctx.progress
        )
        ctx.details["recovery"] = account.summary()

    # --- what can be cut ---

    def _candidates(self, model: ir.Model, units: Units, ctx: PassContext) -> list[Candidate]:
        """Return the groups of this structure, and refuse the rest with reasons."""
        reasons: Counter[str] = Counter()

        def refuse(where: ir.Node | ir.Value | str, reason: str) -> None:
            reasons[reason] += 1
            ctx.refuse(self.rule, where, reason)

        found = []
        wanted, at_most = self.alignment, block_size(ctx.target) or 8
        for group in units.groups:
            candidate = Candidate.of(units, group, wanted, at_most)
            if candidate is None or candidate.structure != self.structure:
                continue
            if candidate.matches(self.exclude):
                refuse(candidate.name, "excluded")
            elif len(group.units) == 1:
                refuse(candidate.name, f"all its {self.noun} are coupled with one another")
            elif candidate.step >= len(group.units):
                refuse(candidate.name, f"too few {self.noun} for the alignment")
            else:
                found.append(candidate)
        self._refuse_whole(model, units, refuse)
        names = [name for candidate in found for name in candidate.names]
        check_patterns(model, self.exclude, names)
        if not found:
            why = reasons.most_common(1)[0][0] if reasons else f"there are no {self.noun} to cut"
            ctx.warn(f"{self.name}: nothing to prune: {why}")
        return found

    def _refuse_whole(
        self, model: ir.Model, units: Units, refuse: Callable[[ir.Node, str], None]
    ) -> None:
        """Say of layers whose results have to stay whole why."""
        for node in model.graph:
            if len(node.inputs) < 2 or self.structure != plan.structure_of([node], heads=False):
                continue
            if any(value is not None and is_matrix(value) for value in node.inputs[:2]):
                result = node.outputs[0]
                axis = 1 if node.op_type in CONVOLUTIONS else len(result.shape or ()) - 1
                labels = units.of((result, axis))
                if labels is not None and bool((labels < 0).all()):
                    refuse(node, units.reasons[units.class_of[result, axis]])

    # --- what to cut ---

    def _ranked(
        self, model: ir.Model, units: Units, candidates: Sequence[Candidate], ctx: PassContext
    ) -> list[Ranking]:
        samples = ctx.calibration
        criterion, scope = self.criterion, self.scope
        if criterion == "auto":
            criterion = "l2" if samples is None else "reconstruction"
        if scope == "auto":
            scope = "sensitivity" if samples is not None and self.budget is not None else "group"
        trials = None
        if scope == "sensitivity":
            from burnish.passes.prune.trials import Outputs, Trials

            if samples is None:
                raise InputError(
                    f"{self.name}: scope=sensitivity needs calibration data",
                    hint="give --calibration, or use scope=global",
                )
            work = Cost(model, units, candidates, "flops").total * MEASURED * len(candidates)
            trials = Trials(model, units, Outputs(model, samples, work, "give scope=group"))
        return rank(model, units, candidates, criterion, trials, ctx)

    def _choose(
        self,
        model: ir.Model,
        units: Units,
        candidates: Sequence[Candidate],
        ranked: Sequence[Ranking],
        ctx: PassContext,
    ) -> Counts:
        """Return how many units of each candidate go."""
        curves = [each.curve for each in ranked if each.curve is not None]
        name = self.budget or "units"
        cost = Cost(model, units, candidates, "flops" if name == "latency" else name)

        def at(ratio: float) -> Counts:
            if self.scope == "global":
                return plan.throughout(candidates, [each.scores for each in ranked], ratio)
            return plan.uniform(candidates, ratio)

        if self.budget is None:
            ratio = _DEFAULT_RATIO if self.ratio is None else self.ratio
            if not curves:
                return at(ratio)
            path = plan.cheapest(curves, cost)
            step = plan.first_within(path, cost.left, 1 - ratio)
            if step is None:
                return np.asarray(path[-1])
            return plan.give_back(path[step], curves, cost, 1 - ratio)
        path = plan.cheapest(curves, cost) if curves else plan.path_of(at)
        budget = getattr(self, self.budget)
        left = cost.left
        if name == "latency":
            from burnish.passes.prune.latency import Cuts

            left = Cuts(model, candidates, [each.order for each in ranked], ctx).left
        step = plan.first_within(path, left, budget)
        if step is None:
            self.missed(f"{name}={budget:g}", f"{left(path[-1]):.3g} is the least there is", ctx)
            return np.asarray(path[-1])
        if curves and name != "latency":
            return plan.give_back(path[step], curves, cost, budget)
        return np.asarray(path[step])

    def _gate(
        self,
        model: ir.Model,
        units: Units,
        candidates: Sequence[Candidate],
        ranked: Sequence[Ranking],
        gone: Counts,
        ctx: PassContext,
    ) -> NDArray[np.int64]:
        """Let the instruments decide group by group; all is cut at once, later."""
        allowed, details = [np.zeros(0, np.int64)], []
        gone = gone.copy()
        for at, (candidate, ranking) in enumerate(zip(candidates, ranked, strict=True)):
            if gone[at]:
                with ctx.rewrite(self.rule, candidate.name) as go:
                    if not go:
                        gone[at] = 0
            allowed.append(candidate.group.units[np.sort(ranking.order[: gone[at]])])
            detail = {
                "name": candidate.name,
                "layers": list(candidate.layers),
                self.noun: candidate.count,
                "kept": candidate.count - int(gone[at]),
            }
            if ranking.curve is not None:
                detail["loss"] = float(np.interp(gone[at], ranking.curve.gone, ranking.curve.loss))
            details.append(detail)
        for name in ("flops", "params"):
            cost = Cost(model, units, candidates, name)
            ctx.details[name] = cost.total
            ctx.details[f"{name}_left"] = cost.left(gone)
        ctx.details["groups"] = details
        return np.concatenate(allowed)


@dataclass(frozen=True)
class Aligned(Structured):
    """What kept counts of channels and neurons are multiples of."""

    align: str = option(
        "auto",
        help="kept counts are multiples of this; auto: of what the target computes at a time",
        choices=("auto", "1", "2", "4", "8", "16", "32", "64"),
    )

    @property
    def alignment(self) -> int | None:
        """See `Structured`."""
        return None if self.align == "auto" else int(self.align)


@dataclass(frozen=True)
class PruneChannels(Aligned):
    """Cut out channels of convolutions, and all that is coupled with them.

    Residual additions, concatenations, groups, gates and flattened maps are followed: whatever has
    to lose the same channels loses them together, and what needs all of them is left alone, with
    the reason. The model that is left computes what the full one does with those channels zeroed.

    The report's `details` hold `flops` and `params` before, the share of each that is left as
    `flops_left` and `params_left`, and `groups`: of each its `name`, its `layers`, its number of
    `channels` and of those `kept`. With calibration data, `recovery` holds the errors of the layers
    that read what was cut, `before` and `after` they were fitted, relative to their outputs.
    """

    name: ClassVar[str] = "prune-channels"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-channels",)
    structure: ClassVar[str] = "channels"
    noun: ClassVar[str] = "channels"


@dataclass(frozen=True)
class PruneNeurons(Aligned):
    """Cut out neurons between matrix products, as in the feed-forward parts of transformers.

    The report's `details` are those of `prune-channels`, with `neurons`.
    """

    name: ClassVar[str] = "prune-neurons"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-neurons",)
    structure: ClassVar[str] = "neurons"
    noun: ClassVar[str] = "neurons"


@dataclass(frozen=True)
class PruneHeads(Structured):
    """Cut out heads of attention; queries that share keys go with them.

    (P. Michel et al., "Are Sixteen Heads Really Better than One?", 2019.) The report's `details`
    are those of `prune-channels`, with `heads`.
    """

    name: ClassVar[str] = "prune-heads"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-heads",)
    structure: ClassVar[str] = "heads"
    noun: ClassVar[str] = "heads"


# --- constants that layers happen to share --------------------------------------------------------


def _unshare(model: ir.Model) -> list[_Copy]:
    """Give each user of a shared vector its own: equal biases of two layers do not couple them."""
    copies: list[_Copy] = []
    graph = model.graph
    for value in [*graph.initializers.values()]:
        tensor = value.const_value
        shared = use_count(value) > 1 and not value.is_graph_output() and not value.is_graph_input()
        if tensor is None or not shared or sum(size > 1 for size in tensor.shape.numpy()) != 1:
            continue
        for node, slot in list(value.uses())[1:]:
            if node.graph is graph:
                name = names_of(graph).fresh(value.name or "shared")
                own = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
                copy = ir.Value(name=name, const_value=own, shape=value.shape, type=value.type)
                graph.register_initializer(copy)
                node.replace_input_with(slot, copy)
                copies.append(_Copy(value, tensor, copy, own))
    return copies


@dataclass(frozen=True)
class _Copy:
    value: ir.Value
    tensor: ir.TensorProtocol
    copy: ir.Value
    own: ir.TensorProtocol


def _share(model: ir.Model, copies: Sequence[_Copy]) -> None:
    """Undo `_unshare` where nothing was cut."""
    for each in copies:
        if each.value.const_value is each.tensor and each.copy.const_value is each.own:
            for node, slot in list(each.copy.uses()):
                node.replace_input_with(slot, each.value)
            drop_initializer(each.copy)
