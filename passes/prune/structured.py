# SPDX-License-Identifier: Apache-2.0
"""Structured pruning: channels, heads and neurons are cut out, and the model is smaller for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.errors import BudgetError, InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import drop_initializer, names_of, use_count
from burnish.passes.fuse.blocked import block_size
from burnish.passes.options import option
from burnish.passes.prune import flops
from burnish.passes.prune.coupling import Group, Units, couplings_of
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.importance import (
    CRITERIA,
    MeanSquare,
    Scores,
    by_activation,
    by_magnitude,
    is_matrix,
    matrices,
    readers,
    readings,
)
from burnish.passes.prune.weights import QUANTIZED, check_patterns, is_quantized
from burnish.passes.shapes import infer_shapes

_DEFAULT_RATIO = 0.25
_STEPS = 24
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})


@dataclass(frozen=True)
class Structured(Pass):
    """Cut out what matters least; subclasses say of which structure."""

    lossless: ClassVar[bool] = False
    structure: ClassVar[str]
    noun: ClassVar[str]

    ratio: float | None = option(
        None, help="share of each group to cut; 0.25 unless a budget is given", min=0, max=1
    )
    flops: float | None = option(
        None, help="share of the model's operations that may be left", min=0, max=1
    )
    params: float | None = option(
        None, help="share of the model's parameters that may be left", min=0, max=1
    )
    scope: str = option(
        "group",
        help="compare within each group, or across all by scores relative to the group's mean",
        choices=("group", "global"),
    )
    criterion: str = option("l2", help="what is cut first: the least by this", choices=CRITERIA)
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes or weights")
    recover: bool = option(
        True, help="with calibration data, fit what reads the units to make up for them"
    )
    best_effort: bool = option(False, help="go as far as possible where a budget cannot be met")

    def __post_init__(self) -> None:
        """Refuse several goals at once."""
        super().__post_init__()
        goals = [name for name in ("ratio", "flops", "params") if getattr(self, name) is not None]
        if len(goals) > 1:
            raise InputError(f"options {goals[0]!r} and {goals[1]!r} exclude each other")

    @property
    def alignment(self) -> int | None:
        """What kept counts are multiples of; None for what the runtime computes at a time."""
        return 1

    @property
    def rule(self) -> str:
        """Name of the rewrite."""
        return self.name

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find groups of units, score them, choose, and cut.

        Raises:
            InputError: a pattern matches nothing, or the criterion needs samples there are not.
            BudgetError: the budget cannot be met.
        """
        infer_shapes(model)
        if any(is_quantized(node) for node in model.graph.all_nodes()):
            ctx.refuse(self.rule, model.graph.name or "model", QUANTIZED)
            ctx.warn(f"{self.name}: nothing done: {QUANTIZED}")
            return
        copies = _unshare(model)
        units = Units(couplings_of(model))
        candidates = self._candidates(model, units, ctx)
        removed = np.zeros(0, np.int64)
        if candidates:
            plan = Plan(model, units, candidates, self._scores(model, units, candidates, ctx), self)
            chosen = self._choose(plan, ctx)
            removed = self._gate(plan, chosen, ctx)
            cut = Cut(units, removed)
            if self.recover and ctx.calibration is not None and removed.size:
                from burnish.passes.prune.recover import recover

                account = recover(model, cut, ctx.calibration, ctx.progress)
                ctx.details["recovery"] = account.summary()
            cut.apply(model)
        _share(model, copies)

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
            if len(node.inputs) < 2 or self.structure != _structure_of([node], heads=False):
                continue
            if any(value is not None and is_matrix(value) for value in node.inputs[:2]):
                result = node.outputs[0]
                axis = 1 if node.op_type in _CONVOLUTIONS else len(result.shape or ()) - 1
                labels = units.of((result, axis))
                if labels is not None and bool((labels < 0).all()):
                    refuse(node, units.reasons[units.class_of[result, axis]])

    # --- what to cut ---

    def _scores(
        self, model: ir.Model, units: Units, candidates: Sequence[Candidate], ctx: PassContext
    ) -> list[Scores]:
        groups = [candidate.group for candidate in candidates]
        if self.criterion == "random":
            rng = np.random.default_rng(ctx.seed)
            return [rng.random(len(group.units)) for group in groups]
        order = 1 if self.criterion == "l1" else 2
        if self.criterion != "activation":
            shown = ctx.progress(groups, len(groups), f"{self.name}: magnitudes")
            return [by_magnitude(units, group, order) for group in shown]
        if ctx.calibration is None:
            raise InputError(
                f"{self.name}: criterion=activation needs calibration data",
                hint="give --calibration, or use criterion=l2",
            )
        from burnish.passes.quant.collect import collect

        watched = {
            (str(reading.data[0].name), reading.data[1]): MeanSquare(reading.data[1])
            for group in groups
            for reading in readings(units, group)
            if isinstance(reading.data[0], ir.Value)
        }
        watchers: dict[str, list[Any]] = {}
        for (name, _), square in watched.items():
            watchers.setdefault(name, []).append(square)
        collect(model, watchers, ctx.calibration, progress=ctx.progress)
        found = by_activation(units, groups, watched)
        return [
            scores if scores.any() else by_magnitude(units, group, 2)
            for group, scores in zip(groups, found, strict=True)
        ]

    def _choose(self, plan: Plan, ctx: PassContext) -> list[NDArray[np.int64]]:
        """Return what to remove of each candidate."""
        if self.flops is None and self.params is None:
            return plan.at(_DEFAULT_RATIO if self.ratio is None else self.ratio)
        name = "flops" if self.flops is not None else "params"
        budget = self.flops if self.flops is not None else self.params
        assert budget is not None
        cost = plan.cost(name)
        low, high = 0.0, 1.0
        least = cost(plan.at(high))
        if least > budget:
            text = (
                f"{self.name}: {name}={budget:g} cannot be met: {least:.3g} is the least there is"
            )
            if not self.best_effort:
                raise BudgetError(text, hint="raise the budget, or give best_effort=true")
            ctx.warn(text)
            return plan.at(high)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if cost(plan.at(middle)) <= budget else (middle, high)
        return plan.at(high)

    def _gate(
        self, plan: Plan, chosen: Sequence[NDArray[np.int64]], ctx: PassContext
    ) -> NDArray[np.int64]:
        """Let the instruments decide group by group; all is cut at once, later."""
        before = {name: plan.total(name) for name in ("flops", "params")}
        allowed, details = [], []
        for candidate, removed in zip(plan.candidates, chosen, strict=True):
            if removed.size:
                with ctx.rewrite(self.rule, candidate.name) as go:
                    if go:
                        allowed.append(removed)
                    else:
                        removed = removed[:0]
            count = len(candidate.group.units)
            details.append(
                {
                    "name": candidate.name,
                    "layers": list(candidate.layers),
                    self.noun: count,
                    "kept": count - removed.size,
                }
            )
        for name in ("flops", "params"):
            ctx.details[name] = before[name]
            ctx.details[f"{name}_left"] = plan.cost(name)(allowed) if before[name] else 1.0
        ctx.details["groups"] = details
        return np.concatenate([np.zeros(0, np.int64), *allowed])


@dataclass(frozen=True)
class PruneChannels(Structured):
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
class PruneNeurons(Structured):
    """Cut out neurons between matrix products, as in the feed-forward parts of transformers.

    The report's `details` are those of `prune-channels`, with `neurons`.
    """

    name: ClassVar[str] = "prune-neurons"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-neurons",)
    structure: ClassVar[str] = "neurons"
    noun: ClassVar[str] = "neurons"

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
class PruneHeads(Structured):
    """Cut out heads of attention; queries that share keys go with them.

    (P. Michel et al., "Are Sixteen Heads Really Better than One?", 2019.) The report's `details`
    are those of `prune-channels`, with `heads`.
    """

    name: ClassVar[str] = "prune-heads"
    rule_names: ClassVar[tuple[str, ...]] = ("prune-heads",)
    structure: ClassVar[str] = "heads"
    noun: ClassVar[str] = "heads"


# --- planning -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A group that may be cut.

    Attributes:
        group: The group.
        layers: Names of the nodes whose weights are cut.
        names: Those and the names of the weights.
        structure: channels, heads or neurons.
        step: Kept units come in multiples of this.
    """

    group: Group
    layers: tuple[str, ...]
    names: frozenset[str]
    structure: str
    step: int

    @staticmethod
    def of(units: Units, group: Group, alignment: int | None, at_most: int) -> Candidate | None:
        """Describe a group; None if it cuts no weight of a sum of products.

        Without a given alignment it is a power of two, `at_most`, of which there are two at least.
        """
        dims = matrices(units, group)
        weights = [dim[0] for dim in dims if isinstance(dim[0], ir.Value)]
        nodes = list(dict.fromkeys(node for weight in weights for node in readers(weight)))
        if not nodes:
            return None
        width = min(group.classes[units.class_of[dim]] for dim in dims)
        if alignment is None:
            alignment = at_most
            while alignment > 1 and 2 * alignment > width * len(group.units):
                alignment //= 2
        step = alignment // math.gcd(alignment, width)
        layers = tuple(node.name or node.outputs[0].name or node.op_type for node in nodes)
        names = {*layers, *(weight.name for weight in weights if weight.name)}
        structure = _structure_of(nodes, group.heads)
        return Candidate(group, layers, frozenset(names), structure, step)

    @property
    def name(self) -> str:
        """Name of the first layer."""
        return self.layers[0]

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern matches a name of a layer or weight."""
        return any(fnmatchcase(name, pattern) for name in self.names for pattern in patterns)


def _structure_of(nodes: Sequence[ir.Node], heads: bool) -> str:
    if heads:
        return "heads"
    convolution = any(node.op_type in _CONVOLUTIONS for node in nodes)
    return "channels" if convolution else "neurons"


class Plan:
    """How many units of each candidate go, at a ratio, and what is left then."""

    def __init__(
        self,
        model: ir.Model,
        units: Units,
        candidates: Sequence[Candidate],
        scores: Sequence[Scores],
        options: Structured,
    ) -> None:
        self.model = model
        self.units = units
        self.candidates = candidates
        self.scores = scores
        self.order = [np.argsort(each, kind="stable") for each in scores]
        self.everywhere = options.scope == "global"

    def at(self, ratio: float) -> list[NDArray[np.int64]]:
        """Return the units that go, of each candidate: `ratio` of each, or of all together."""
        chosen = []
        cut = self._threshold(ratio) if self.everywhere else None
        for candidate, scores, order in zip(self.candidates, self.scores, self.order, strict=True):
            count = len(order)
            below = count * ratio if cut is None else float((_relative(scores) <= cut).sum())
            kept = math.floor((count - below) / candidate.step + 0.5) * candidate.step
            kept = min(max(kept, candidate.step), count)
            chosen.append(candidate.group.units[np.sort(order[: count - kept])])
        return chosen

    def _threshold(self, ratio: float) -> float:
        every = np.sort(np.concatenate([_relative(scores) for scores in self.scores]))
        index = round(ratio * every.size) - 1
        return float(every[index]) if index >= 0 else -1.0

    @cached_property
    def _sizes(self) -> flops.Sizes:
        return flops.Sizes(self.model)

    def _terms(self, name: str) -> Iterator[flops.Term]:
        return (
            flops.model_flops(self.model) if name == "flops" else flops.model_parameters(self.model)
        )

    def total(self, name: str) -> int:
        """Return operations, or parameters, before anything is cut."""
        terms = (math.prod(map(self._sizes, term)) for term in self._terms(name))
        return sum(terms) * (2 if name == "flops" else 1)

    def cost(self, name: str) -> Callable[[Sequence[NDArray[np.int64]]], float]:
        """Return a function from what goes to the share of the cost that is left."""
        sizes, class_of = self._sizes, self.units.class_of
        used: dict[int, int] = {}
        rows: list[tuple[float, list[int]]] = []
        for term in self._terms(name):
            cut = [class_of[dim] for dim in term if dim in class_of]
            places = [used.setdefault(found, len(used)) for found in cut]
            rows.append((float(math.prod(map(sizes, term))), places))
        labels = [self.units.labels[found] for found in used]
        total = sum(whole for whole, _ in rows) or 1.0

        def left(removed: Sequence[NDArray[np.int64]]) -> float:
            gone = np.sort(np.concatenate([np.zeros(0, np.int64), *removed]))
            shares = [1.0 - float(np.isin(each, gone).mean()) for each in labels]
            return (
                sum(whole * math.prod(shares[at] for at in places) for whole, places in rows)
                / total
            )

        return left


def _relative(scores: Scores) -> Scores:
    mean = scores.mean()
    return np.asarray(scores / mean) if mean > 0 else scores


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
