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

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.decide import Decision
from burnish.passes.instrument import Disable
from burnish.passes.part import CannotMeasure
from burnish.passes.quant.collect import Progress
from burnish.passes.quant.fill import is_image
from burnish.passes.quant.placement import COMPUTING, is_depthwise
from burnish.passes.quant.ready import passed_through, raise_opset
from burnish.passes.quant.recipe import Recipe
from burnish.passes.quant.sensitivity import (
    SAMPLES,
    Likeness,
    Reference,
    Run,
    fewest_float,
    groups,
    held_out,
    not_held_out,
)
from burnish.passes.quant.static import OBSERVED, RESIDUAL
from burnish.passes.quant.weighted import KEEP, SLOWER, Weights, weights_of
from burnish.passes.quant.widen import FILLED
from burnish.passes.shapes import infer_shapes
from burnish.references import resolve_function

if TYPE_CHECKING:
    import numpy as np

    from burnish.backends.answers import Answer
    from burnish.backends.onnxruntime import Session

RULE = "stay-float"
_RESIDUAL_SUMS = "int8 for residual sums"
INACCURATE = "int8 costs more accuracy than max_drop allows"

_OPS = ("Conv", "Gather", "Gemm", "MatMul")
_MOST_KINDS = 16
_MOST_BEGINNINGS = 3
_SECONDS = 1.0  # for one comparison
_ROUNDS = 200
_LOADS = 3
"""Comparisons, each of sessions of their own, until one is narrow."""
_NARROW = 1.03
"""Upper over lower end of the interval of a comparison that nothing disturbed."""
_WORSE = 1.25
"""Residual sums in int8 may raise the error on samples by this factor."""
_FEW = 32
"""Channels: fewer fill a vector of int8 numbers badly."""


@dataclass(frozen=True)
class MixedPrecision(Recipe):
    """Decides by measurement what `quant` leaves float; see `burnish.passes.quant.mixed`."""

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
        judge = None if self.max_drop is None else _Judge.of(self, model, ctx)
        trials = _Trials(self, model, ctx, judge)
        if not trials.regions:
            return
        search = _Search(trials, judge)
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


# --- copies --------------------------------------------------------------------------------------


class _Trials:
    """Copies of a model, quantized but for some operators, which go by their number in a walk.

    Attributes:
        model: In float, at the operator set that quantizing needs.
        regions: Numbers of the operators that are quantized if none has to stay float.
        between: Numbers of those without weights that are then computed in int8, too.
        opset: That operator set.
    """

    def __init__(
        self, recipe: Recipe, model: ir.Model, ctx: PassContext, judge: _Judge | None
    ) -> None:
        self.recipe, self.ctx = recipe, ctx
        self.model = _copy(model)
        self.calibration = ctx.calibration if judge is None else judge.calibration
        self.residual = False
        self.whole, self.regions, self.between = self._quantized((), ctx.progress)
        self.opset = self.whole.opset_imports.get("", 0)
        if self.opset > model.opset_imports.get("", 0):  # other nodes may stand in their places
            raise_opset(self.model, self.opset, self._context())
            infer_shapes(self.model)
            self.whole, self.regions, self.between = self._quantized((), ctx.progress)
        if OBSERVED in self.whole.meta:  # calibrated once
            self.model.meta[OBSERVED] = self.whole.meta[OBSERVED]

    @functools.cached_property
    def nodes(self) -> list[ir.Node]:
        """The operators of the float model, by number."""
        return _walk(self.model)

    def quantized(self, float_: Collection[int]) -> ir.Model:
        """Return a copy in which operators of these numbers stay float."""
        return self._quantized(float_)[0] if float_ else self.whole

    def float_depthwise(self, float_: Collection[int]) -> list[int]:
        """Return the depthwise convolutions that are float if these are: nothing beside is int8."""
        copy = _copy(self.model)
        nodes = _walk(copy)
        depthwise = [index for index, node in enumerate(nodes) if is_depthwise(node)]
        self._quantize(copy, nodes, float_)
        return [index for index in depthwise if _takes_float(nodes[index])]

    def try_residual(self, faster: Callable[[ir.Model, ir.Model], bool]) -> None:
        """Compute residual sums in int8 if that is faster and adds little to the error.

        Args:
            faster: Whether the second model is faster than the first.
        """
        if self.residual or self.ctx.calibration is None:
            return
        self.residual = True
        rounded, regions, between = self._quantized(())
        self.residual = (
            set(regions) >= set(self.regions)
            and _skeleton(rounded) != _skeleton(self.whole)
            and faster(self.whole, rounded)
            and self._error(rounded) <= _WORSE * self._error(self.whole)
        )
        if self.residual:
            self.whole, self.regions, self.between = rounded, regions, between
            self.model.meta[OBSERVED] = rounded.meta[OBSERVED]

    def _error(self, model: ir.Model) -> float:
        with _session(model) as session:
            return self._reference.compare(session.run).error

    @functools.cached_property
    def _reference(self) -> Reference:
        samples = self.ctx.calibration or ()
        with _session(self.model) as session:
            return Reference(session.run, held_out(samples) or itertools.islice(samples, SAMPLES))

    def matching(self, model: ir.Model) -> dict[int, ir.Node]:
        """Return the operators by number in the model itself.

        If that was left at an older operator set, numbers may differ; then all of its operators
        that can be quantized bear those of the regions, which all stay float.
        """
        nodes = _walk(model)
        if len(nodes) == len(self.nodes):
            return dict(enumerate(nodes))
        weighted = [node for node in nodes if node.op_type in _OPS]
        return dict(zip(self.regions, weighted, strict=False))

    def beginnings(self) -> Iterator[list[int]]:
        """Yield the operators from the first on, up to each that gives maps of another size."""
        before: list[int] = []
        size: str | None = None
        for index in sorted({*self.regions, *self.between}):
            shape = self.nodes[index].outputs[0].shape
            if shape is None or shape.rank() < 3 or set(shape[2:]) == {1}:
                continue
            before.append(index)
            found = str(shape[2:])
            if size not in (None, found):
                yield list(before)
            size = found

    def describe(self, index: int) -> str:
        """Return the name of an operator."""
        node = self.nodes[index]
        return node.name or node.outputs[0].name or node.op_type

    def kind(self, index: int) -> str:
        """Return what decides how fast an operator is as int8, in words."""
        node = self.nodes[index]
        if node.op_type not in _OPS:
            return node.op_type
        weights = weights_of(node) if node.op_type != "Gather" else None
        if not isinstance(weights, Weights):
            return f"{node.op_type} of rows"
        shape = weights.array.shape
        if node.op_type != "Conv":
            return f"{node.op_type} to {'few' if weights.channels < _FEW else 'many'} channels"
        if is_depthwise(node):
            return f"depthwise {'x'.join(map(str, shape[2:]))} Conv"
        size = "1x1" if math.prod(shape[2:]) == 1 else "wide"
        if is_image(node, weights.array):
            return f"{size} Conv of an image"
        group = node.attributes.get("group")
        if group is not None and group.as_int() > 1:
            return f"grouped {size} Conv"
        return f"{size} Conv of {'few' if min(shape[:2]) < _FEW else 'many'} channels"

    def is_small(self, index: int) -> bool:
        """Whether int8 does not shrink the file: the operator has no weights, or few."""
        node = self.nodes[index]
        return node.op_type not in _OPS or is_depthwise(node)

    def _quantized(
        self, float_: Collection[int], progress: Progress | None = None
    ) -> tuple[ir.Model, list[int], list[int]]:
        copy = _copy(self.model)
        nodes = _walk(copy)
        self._quantize(copy, nodes, float_, progress)
        int8 = [(i, node.op_type) for i, node in enumerate(nodes) if _is_int8(node)]
        regions = [i for i, op in int8 if op in _OPS]
        return copy, regions, [i for i, op in int8 if op in COMPUTING]

    def _quantize(
        self,
        copy: ir.Model,
        nodes: list[ir.Node],
        float_: Collection[int],
        progress: Progress | None = None,
    ) -> None:
        for index in float_:
            nodes[index].meta[KEEP] = SLOWER
        if self.residual:
            copy.meta[RESIDUAL] = True
        ctx = self._context()
        if progress is not None:
            ctx.progress = progress
        for item in self.recipe.quantizers():
            item.run(copy, ctx)

    def _context(self) -> PassContext:
        """Return a context of their own: what they report is no part of the build."""
        held = [item for item in self.ctx.instruments if isinstance(item, Disable)]
        ctx = PassContext(self.ctx.target, self.calibration, self.ctx.seed, held)
        ctx.strict = self.ctx.strict
        return ctx


def _copy(model: ir.Model) -> ir.Model:
    copy = model.clone()
    copy.meta.update(model.meta)
    return copy


def _walk(model: ir.Model) -> list[ir.Node]:
    return [node for graph in model.graphs() for node in graph]


def _takes_float(node: ir.Node) -> bool:
    """Whether an operator is there and its input is not dequantized."""
    maker = node.inputs[0].producer() if node.graph is not None and node.inputs[0] else None
    return node.graph is not None and (maker is None or maker.op_type != "DequantizeLinear")


def _is_int8(node: ir.Node) -> bool:
    """Whether an operator was replaced, or takes dequantized weights or, without any, input."""
    if node.graph is None:
        return True
    position = 1 if node.op_type in _OPS else 0
    value = node.inputs[position] if len(node.inputs) > position else None
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


# --- judging -------------------------------------------------------------------------------------


@dataclass
class _Judge:
    """Scores models: by the user's function, or by agreement with the float model.

    Attributes:
        calibration: The samples that ranges may be taken from.
        reference: What the float model gives on others; None without samples.
        function: The user's.
        measure: What the score is, in words.
    """

    calibration: CalibrationSource | None
    reference: Reference | None
    function: Callable[[Run], float] | None
    measure: str

    @staticmethod
    def of(recipe: Recipe, model: ir.Model, ctx: PassContext) -> _Judge:
        """Make the judge that a recipe asks for, and set samples aside for it.

        Raises:
            InputError: there is neither a function nor a sample.
        """
        function = None if recipe.eval is None else resolve_function(recipe.eval)
        source = ctx.calibration
        if source is None:
            if function is None:
                raise InputError(
                    "max_drop has nothing to judge by",
                    hint="give sample inputs with --calib, or a metric with --eval",
                )
            return _Judge(None, None, function, str(recipe.eval))
        kept = held_out(source)
        if kept:
            source = CalibrationSource.from_iterable(
                lambda: not_held_out(ctx.calibration or ()), model.graph.inputs
            )
        else:
            ctx.warn(
                "too few samples to hold some out: accuracy is judged on those calibrated with"
            )
            kept = list(source)
        with _session(model) as session:
            reference = Reference(session.run, kept)
        name = recipe.eval or f"cosine to the float outputs on {len(kept)} held-out samples"
        return _Judge(source, reference, function, name)

    def score(self, model: ir.Model) -> float:
        """Score a model; higher is better.

        Raises:
            InputError: the user's function fails or gives no number.
        """
        with _session(model) as session:
            if self.function is None:
                assert self.reference is not None
                return self.reference.compare(session.run).cosine
            try:
                found = float(self.function(session.run))
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.measure} failed: {error}") from error
        if not math.isfinite(found):
            raise InputError(f"{self.measure} gave {found}", hint="it has to return a number")
        return found

    def likeness(self, model: ir.Model) -> Likeness | None:
        """Compare a model with the float model, if there are samples."""
        if self.reference is None:
            return None
        with _session(model) as session:
            return self.reference.compare(session.run)


def _session(model: ir.Model) -> Session:
    from burnish.backends.onnxruntime import session

    return session(model, threads=1, optimize="all")


# --- searching -----------------------------------------------------------------------------------


@dataclass
class _Search:
    """Looks for the regions that stay float.

    Attributes:
        kept: Number of an operator -> why it stays float; always good to deliver.
        sensitivity: Error of the outputs with a group of regions alone in int8.
    """

    trials: _Trials
    judge: _Judge | None
    kept: dict[int, str] = field(default_factory=dict)
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    done: bool = True
    _judged: bool = False

    @property
    def all_float(self) -> bool:
        """Whether nothing is left to be int8."""
        return self.kept.keys() >= set(self.trials.regions)

    # --- by time ---

    def by_time(self) -> None:
        """Leave float what makes the model slower as int8; all of it if the model gets slower."""
        self.trials.try_residual(
            lambda before, after: _is_faster(self._decide(_RESIDUAL_SUMS, before, after))
        )
        kinds: dict[str, list[int]] = {}
        for index in (*self.trials.regions, *self.trials.between):
            kinds.setdefault(self.trials.kind(index), []).append(index)
        order = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:_MOST_KINDS]
        if len(order) > 1:
            for kind in self.trials.ctx.progress(order, len(order), "timing"):
                without = {**self.kept, **dict.fromkeys(kinds[kind], SLOWER)}
                count = f"{len(kinds[kind])} {kind}"
                decision = self._ask(f"int8 for {count}", without)
                useless = (decision.ratio or 1) < 1 and self.trials.is_small(kinds[kind][0])
                if decision.chosen == "original" or useless:
                    self.kept = without
            self._reconsider({kind: kinds[kind] for kind in order})
            self._begin_in_float()
        self.unless_slower()

    def _reconsider(self, kinds: Mapping[str, Collection[int]]) -> None:
        """Ask again about kinds that stay float, now that those asked about later are decided."""
        for kind, members in kinds.items():
            if not self.kept.keys() >= set(members):
                continue
            fewer = {index: why for index, why in self.kept.items() if index not in members}
            before, after = self.trials.quantized(self.kept), self.trials.quantized(fewer)
            if _skeleton(before) == _skeleton(after):
                continue
            question = f"int8 for {len(members)} {kind} after all"
            if _is_faster(self._decide(question, before, after)):
                self.kept = fewer

    def _begin_in_float(self) -> None:
        """Leave the beginning float while that is faster: large maps of few channels gain least."""
        for piece in itertools.islice(self.trials.beginnings(), _MOST_BEGINNINGS):
            without = {**self.kept, **dict.fromkeys(piece, SLOWER)}
            if len(without) == len(self.kept) or without.keys() >= set(self.trials.regions):
                continue
            decision = self._ask(f"int8 for the first {len(piece)} operators", without)
            slower = (decision.high or 1) < 1  # there is hardly any size to gain here
            if decision.chosen != "original" and not slower:
                return
            self.kept = without

    def unless_slower(self) -> None:
        """Leave everything float if the model as it is now is slower than in float."""
        if self.all_float:
            return
        everything = dict.fromkeys(self.trials.regions, SLOWER)
        decision = self._ask("int8 for the model", everything)
        if decision.chosen == "original":
            self.kept = everything
            self.trials.ctx.warn(
                f"the int8 model is slower than the float one ({decision.ratio or 1:.2f} of its "
                "speed): all of it stays float"
            )

    def _ask(self, question: str, without: Mapping[int, str]) -> Decision:
        """Ask whether the model as it is now is as fast as with other operators left float."""
        whole = without.keys() >= set(self.trials.regions)
        before = self.trials.model if whole else self.trials.quantized(without)
        return self._decide(question, before, self.trials.quantized(self.kept))

    def _decide(self, question: str, before: ir.Model, after: ir.Model) -> Decision:
        decisions = self.trials.ctx.decisions
        assert decisions is not None
        feeds = dict(decisions.sample.feeds)
        sizes = [f"{name}:{'x'.join(map(str, array.shape))}" for name, array in feeds.items()]
        digest = hashlib.sha256(repr((_skeleton(before), _skeleton(after), sizes)).encode())
        asked = Decision(
            key=digest.hexdigest()[:32],
            question=question,
            rule=RULE,
            operator="int8",
            shapes=[size.partition(":")[2] for size in sizes],
            dtype="FLOAT",
        )
        return decisions.ask(asked, lambda: _timed(before, after, feeds))

    # --- by accuracy ---

    def by_accuracy(self, max_drop: float, evaluations: int) -> None:
        """Leave float the fewest of the most sensitive regions that keep the drop within bounds."""
        assert self.judge is not None
        judge, trials = self.judge, self.trials
        by_time, everything = self.kept, dict.fromkeys(trials.regions, INACCURATE)
        self.kept = everything  # until something better is known to be good enough
        before = judge.score(trials.model)
        self.scores = {"measure": judge.measure, "max_drop": max_drop, "before": before}

        def good(kept: Mapping[int, str]) -> bool:
            model = trials.quantized(kept)
            after = judge.score(model)
            if before - after > max_drop * abs(before):
                self.scores.setdefault("all_int8", after)
                return False
            self.kept = dict(kept)
            found = judge.likeness(model)
            self.scores |= {"after": after, "likeness": None if found is None else asdict(found)}
            return True

        if good(by_time):
            return
        rest = [index for index in trials.regions if index not in by_time]
        steps = len(rest).bit_length() + 1
        pieces = [[rest[i] for i in piece] for piece in groups(len(rest), evaluations - steps)]
        ranked: list[tuple[float, list[int]]] = []
        for piece in trials.ctx.progress(pieces, len(pieces), "sensitivity"):
            alone = trials.quantized([i for i in trials.regions if i not in piece])
            likeness = judge.likeness(alone)
            error = before - judge.score(alone) if likeness is None else likeness.error
            ranked.append((error, piece))
            names = [trials.describe(index) for index in piece]
            self.sensitivity.append({"regions": names, "error": error})
        ranked.sort(key=lambda item: -item[0])

        def passes(count: int) -> bool:
            sensitive = [index for _, piece in ranked[:count] for index in piece]
            return good({**by_time, **dict.fromkeys(sensitive, INACCURATE)})

        fewest_float(len(ranked), passes, steps)
        kept = len(self.kept.keys() - by_time.keys())
        trials.ctx.warn(
            f"{kept} of {len(rest)} operators stay float to lose at most {max_drop:.2%} of "
            f"{judge.measure}"
            if kept < len(rest)
            else f"nothing can be int8 at a loss of at most {max_drop:.2%} of {judge.measure}: "
            "all of the model stays float"
        )

    # --- the end ---

    def interrupt(self) -> None:
        """Say what is delivered after an interruption."""
        if self.judge is not None and not self.scores:  # accuracy was not looked at yet
            self.kept = dict.fromkeys(self.trials.regions, "interrupted before it was judged")
        self.done = False
        most = len(self.trials.regions)
        count = len(set(self.trials.regions) - self.kept.keys())
        self.trials.ctx.warn(
            f"interrupted: the best found so far is kept ({count} of {most} operators int8)"
        )

    def summary(self) -> dict[str, Any]:
        """Return what was found, as plain data."""
        wide = self.trials.ctx.target.int8_accumulator_bits > 16
        kept = {self.trials.describe(index): why for index, why in sorted(self.kept.items())}
        return {
            "complete": self.done,
            "int8": len(set(self.trials.regions) - self.kept.keys()),
            "float": kept,
            "scores": self.scores,
            "sensitivity": self.sensitivity,
            "residual_sums": "int8" if self.trials.residual else "float",
            "holds_on": "machines that add int8 products in 32 bits (VNNI, AMX, Arm)"
            if wide
            else "all machines: weights keep to 7 bits",
        }


def _is_faster(decision: Decision) -> bool:
    """Whether a decision was for what was done, and not for want of anything better."""
    return decision.chosen == "rewritten" and (decision.low or 0) > 1


def _timed(before: ir.Model, after: ir.Model, feeds: Mapping[str, np.ndarray]) -> Answer:
    """Time two models in turns; again, if something else kept the machine busy.

    Raises:
        CannotMeasure: one does not run, or takes too long.
    """
    narrowest: Answer | None = None
    for _ in range(_LOADS):
        found = _compared(before, after, feeds)
        if narrowest is None or found.high / found.low < narrowest.high / narrowest.low:
            narrowest = found
        if narrowest.high / narrowest.low <= _NARROW:
            break
    assert narrowest is not None
    return narrowest


def _compared(before: ir.Model, after: ir.Model, feeds: Mapping[str, np.ndarray]) -> Answer:
    from burnish.backends.answers import Answer
    from burnish.backends.measure import compare, random_run

    try:
        with _session(before) as old, _session(after) as new:
            given = feeds or random_run(old).feeds
            sides = {"before": old, "after": new}
            compare(sides, given, repeats=1, warmup=1)
            found = compare(sides, given, repeats=_ROUNDS, warmup=0, budget=_SECONDS)
    except BurnishError as error:
        raise CannotMeasure(f"it does not run: {error}") from error
    timing = found["after"]
    if math.isinf(timing.high):
        raise CannotMeasure("it takes too long")
    return Answer(timing.speedup, timing.low, timing.high)


def _skeleton(model: ir.Model) -> list[object]:
    """Return all of a model but its numbers: what its speed depends on."""
    found: list[object] = [sorted(model.opset_imports.items())]
    for graph in model.graphs():
        found += [(v.name, str(v.dtype), str(v.shape)) for v in graph.inputs]
        for name, value in graph.initializers.items():
            tensor = value.const_value
            found.append((name, tensor and (str(tensor.dtype), tensor.shape.numpy())))
        for node in graph:
            attributes = [
                (a.name, str(a.value))
                for a in node.attributes.values()
                if a.type not in (ir.AttributeType.GRAPH, ir.AttributeType.TENSOR)
            ]
            given = [value and value.name for value in node.inputs]
            made = [value.name for value in node.outputs]
            found.append((node.domain, node.op_type, sorted(attributes), given, made))
    return found
