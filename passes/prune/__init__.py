# SPDX-License-Identifier: Apache-2.0
"""Pruning: make weights zero that matter little."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from burnish.backends.sparse import MARK
from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.prune import selection, storage
from burnish.passes.prune.axes import axes_of
from burnish.passes.prune.magnitude import has_nan, pieces
from burnish.passes.prune.pattern import Blocks, Kept, Pattern, parse
from burnish.passes.prune.weights import QUANTIZED, SLOTS, Choice, Weight, find_weights
from burnish.passes.prune.zeroing import Zeroing, count_zeros, seed_of
from burnish.passes.shapes import infer_shapes

if TYPE_CHECKING:
    from burnish.passes.prune.fitted import Fitting

CRITERIA = ("magnitude", "wanda", "sparsegpt", "random")
_BY_ACTIVATIONS = frozenset({"wanda", "sparsegpt"})
_DEFAULT_SPARSITY = 0.5

_Ratios = Mapping[str, float]


@dataclass(frozen=True)
class Prune(Pass):
    """Zero weights: those of smallest magnitude, or those that outputs miss least.

    Of n weights, `round(sparsity * n)` are zero afterwards, exactly: those of smallest magnitude,
    and of equal ones the first. Weights that were zero count. Shapes stay as they are, so a dense
    runtime is not faster; the model compresses better. (S. Han et al., "Learning both Weights and
    Connections for Efficient Neural Networks", 2015.)

    criterion=wanda takes, of each output, the least |weight| * ||input||. (M. Sun et al., "A Simple
    and Effective Pruning Approach for Large Language Models", 2023.) criterion=sparsegpt lets the
    weights that stay make up for each that goes. (E. Frantar and D. Alistarh, "SparseGPT", 2023.)
    Both need calibration data. There is no first-order criterion: without labels, what may be lost
    is the difference from the model itself, and its gradient there is zero.

    With calibration data and `recover`, what stays is fitted to the outputs of the original layers
    by least squares, and biases take up the mean of what is lost. steps=N prunes by a cubic
    schedule, recovering in between. (M. Zhu and S. Gupta, "To Prune, or Not to Prune", 2017.)

    pattern=2:4 leaves two of each four weights along the axis that outputs sum over: the channels
    of a Conv [K, C, R, S], K of a MatMul [K, N]. pattern=block:RxC zeroes blocks of R outputs by C
    inputs. scope=sensitivity gives each weight the ratio that costs least on the model's outputs,
    measured with calibration data. store=sparse writes sparse initializers, which ONNX Runtime
    makes dense as it loads them; they pay from two thirds of zeros on, and quantizing drops them.

    The report's `details` hold `sparsity`, the share of zeros in all weights that may be pruned;
    `weights`: of each its `name`, number of `elements` and of `zeros`, and its `sparsity`; `bytes`:
    what they take `dense`, as `sparse` initializers, and with a `bitmask` of what is not zero; with
    scope=sensitivity, `sensitivity`: by weight and ratio, the relative error of the model's
    outputs. With recovery, `recovery` holds the relative errors of layers' outputs on samples held
    out: `before`, with the same weights zeroed and the others as they were, and `after`.
    """

    name: ClassVar[str] = "prune"
    rule_names: ClassVar[tuple[str, ...]] = tuple(f"prune-{criterion}" for criterion in CRITERIA)
    lossless: ClassVar[bool] = False

    sparsity: float | None = option(
        None, help="share of weights to zero; 0.5 unless a threshold is given", min=0, max=1
    )
    threshold: float | None = option(
        None, help="zero what is smaller, rounded to the weight's dtype", min=0
    )
    scope: str = option(
        "layer",
        help="sparsity of each weight, of all together, or of all by measured sensitivity",
        choices=("layer", "global", "sensitivity"),
    )
    criterion: str = option("magnitude", help="what is zeroed first", choices=CRITERIA)
    pattern: str = option("none", help="N:M keeps N of each M, block:RxC zeroes whole blocks")
    steps: int = option(1, help="prune in so many steps, recovering in between", min=1, max=100)
    recover: bool = option(True, help="with calibration data, let what stays make up for what goes")
    store: str = option(
        "dense",
        help="sparse: as sparse initializers where the file is smaller for it",
        choices=("dense", "sparse"),
    )
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes or weights")
    ops: tuple[str, ...] = option(tuple(SLOTS), help="operators to prune", choices=tuple(SLOTS))
    depthwise: bool = option(False, help="prune depthwise convolutions, too")
    min_size: int = option(256, help="leave weights with fewer elements alone", min=0)

    def __post_init__(self) -> None:
        """Refuse goals that exclude each other."""
        super().__post_init__()
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InputError(f"option 'threshold': {self.threshold} is not finite")
        pattern = f"pattern={self.pattern}"
        given = {
            "sparsity": self.sparsity is not None,
            "threshold": self.threshold is not None,
            f"scope={self.scope}": self.scope != "layer",
            f"criterion={self.criterion}": self.criterion != "magnitude",
            pattern: self._pattern != Blocks(),
            "steps": self.steps > 1,
            "recover=false": not self.recover,
        }
        for first, second in itertools.combinations([name for name in given if given[name]], 2):
            decided = isinstance(self._pattern, Kept) and second == pattern
            if (
                ("threshold" in (first, second) and second != "recover=false")
                or (first, second) == ("steps", "recover=false")
                or (decided and not first.startswith("criterion"))
                or (first == "scope=global" and second.startswith(("criterion", "pattern")))
            ):
                raise InputError(f"options {first!r} and {second!r} exclude each other")

    @property
    def _pattern(self) -> Pattern:
        return parse(self.pattern)

    @property
    def _rule(self) -> str:
        return f"prune-{self.criterion}"

    @property
    def _sparsity(self) -> float:
        if isinstance(self._pattern, Kept):
            return 1.0  # all the way to the pattern
        return _DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find the weights, decide what goes, and zero it, step by step.

        Raises:
            InputError: a pattern matches nothing, or there is no calibration data where needed.
        """
        self._check_samples(ctx)
        infer_shapes(model)
        weights = self._weights(model, ctx)
        fittings: list[Fitting] = []
        if ctx.calibration is not None and (self.recover or self.criterion in _BY_ACTIVATIONS):
            weights, fittings = self._fittings(model, weights, ctx)
        if not weights:
            return
        ratios = self._ratios(model, weights, ctx)
        zeros: dict[str, int] = {}
        for number in range(self.steps):
            # Cubic: much while there is much to spare, little in the end.
            share = 1 - (1 - (number + 1) / self.steps) ** 3
            self._step(
                model, weights, fittings, {k: v * share for k, v in ratios.items()}, zeros, ctx
            )
        if self.store == "sparse":
            for weight in weights:
                weight.value.meta[MARK] = True
        self._report(weights, zeros, ctx)

    # --- what can be pruned ---

    def _check_samples(self, ctx: PassContext) -> None:
        wanted = [
            f"criterion={self.criterion}" * (self.criterion in _BY_ACTIVATIONS),
            "scope=sensitivity" * (self.scope == "sensitivity"),
            f"steps={self.steps}" * (self.steps > 1),
        ]
        if ctx.calibration is None and any(wanted):
            raise InputError(
                f"prune{{{next(filter(None, wanted))}}} needs calibration data",
                hint="give sample inputs with --calib",
            )

    def _weights(self, model: ir.Model, ctx: PassContext) -> list[Weight]:
        reasons: Counter[str] = Counter()

        def refuse(where: ir.Node | ir.Value, reason: str) -> None:
            reasons[reason] += 1
            ctx.refuse(self._rule, where, reason)

        choice = Choice(self.ops, self.exclude, self.depthwise, self.min_size)
        weights = []
        for weight in find_weights(model, choice, refuse):
            reason = self._obstacle(weight)
            if reason is None:
                weights.append(weight)
            else:
                refuse(weight.value, reason)
        if reasons[QUANTIZED]:
            ctx.warn(f"prune: left {reasons[QUANTIZED]} weights alone that are {QUANTIZED}")
        if not weights:
            why = reasons.most_common(1)[0][0] if reasons else "no operator that has weights"
            ctx.warn(f"prune: nothing to prune: {why}")
        return weights

    def _obstacle(self, weight: Weight) -> str | None:
        if has_nan(weight.tensor):
            return "an element is not a number"
        if self._pattern == Blocks():
            return None
        axes = axes_of(weight)
        if isinstance(axes, str):
            return axes
        return axes.obstacle(tuple(weight.tensor.shape.numpy()), self._pattern)

    def _fittings(
        self, model: ir.Model, weights: Sequence[Weight], ctx: PassContext
    ) -> tuple[list[Weight], list[Fitting]]:
        """Return the weights that can be pruned, and the layers of those that can be fitted."""
        from burnish.passes.prune.fitted import pair

        lost: set[str] = set()

        def refuse(weight: Weight, reason: str) -> None:
            if self.criterion in _BY_ACTIVATIONS:
                ctx.refuse(self._rule, weight.value, reason)
                lost.add(weight.name)

        fittings = pair(model, model.clone(), weights, refuse)
        if lost and not fittings:
            ctx.warn(f"prune: nothing to prune: what layers are fed is needed for {self.criterion}")
        return [weight for weight in weights if weight.name not in lost], fittings

    # --- what goes ---

    def _ratios(self, model: ir.Model, weights: Sequence[Weight], ctx: PassContext) -> _Ratios:
        if self.scope != "sensitivity":
            return {weight.name: self._sparsity for weight in weights}
        from burnish.passes.prune.ratios import allocate, sample_count, scan

        assert ctx.calibration is not None
        samples = list(itertools.islice(ctx.calibration, sample_count(len(weights))))

        def zeroing(weight: Weight, ratio: float) -> Zeroing:
            return selection.smallest(weight, ratio, self._pattern)

        costs = scan(model, weights, zeroing, samples, ctx.progress)
        ctx.details["sensitivity"] = {
            name: {f"{ratio:g}": error for ratio, error in found.items()}
            for name, found in costs.items()
        }
        sizes = {weight.name: weight.tensor.size for weight in weights}
        return allocate(sizes, costs, self._sparsity)

    def _zeroings(
        self, weights: Sequence[Weight], ratios: _Ratios, ctx: PassContext
    ) -> dict[str, Zeroing]:
        """Return what goes of each weight, if weights alone decide that."""
        if self.criterion in _BY_ACTIVATIONS:
            return {}
        if self.scope == "global" and weights:
            cuts = selection.smallest_of_all(weights, ratios[weights[0].name], ctx)
            return {weight.name: cut for weight, cut in zip(weights, cuts, strict=True)}
        shown = ctx.progress(weights, len(weights), "prune")
        return {weight.name: self._zeroing(weight, ratios[weight.name], ctx) for weight in shown}

    def _zeroing(self, weight: Weight, ratio: float, ctx: PassContext) -> Zeroing:
        if self.threshold is not None:
            return selection.at_threshold(weight.tensor, self.threshold)
        if self.criterion == "random":
            seed = seed_of(ctx.seed, weight.name)
            return selection.at_random(weight, ratio, self._pattern, seed)
        return selection.smallest(weight, ratio, self._pattern)

    # --- zeroing it ---

    def _step(
        self,
        model: ir.Model,
        weights: Sequence[Weight],
        fittings: Sequence[Fitting],
        ratios: _Ratios,
        zeros: dict[str, int],
        ctx: PassContext,
    ) -> None:
        """Prune every weight to its ratio, and note how many zeros it has then."""
        zeroings = self._zeroings(weights, ratios, ctx)
        fitted = {fitting.weight.name for fitting in fittings}
        for weight in weights:
            if weight.name not in fitted:
                zeroing = zeroings[weight.name]
                before, after = zeroing.zeros(weight.tensor)
                zeros[weight.name] = before
                if after > before and self._gate(
                    weight, _replacing(weight, zeroing.tensor(weight.tensor)), ctx
                ):
                    zeros[weight.name] = after
        if not fittings:
            return
        from burnish.passes.prune.fitted import Step

        assert ctx.calibration is not None
        step = Step(self.criterion, self._pattern, ratios, zeroings, self.recover)

        def gate(weight: Weight, edit: Callable[[], None]) -> bool:
            return self._gate(weight, edit, ctx)

        account = step.run(model, fittings, ctx.calibration, ctx.progress, gate)
        zeros.update(
            (fitting.weight.name, sum(map(count_zeros, pieces(fitting.weight.tensor))))
            for fitting in fittings
        )
        ctx.details["recovery"] = account.summary()

    def _gate(self, weight: Weight, edit: Callable[[], None], ctx: PassContext) -> bool:
        with ctx.rewrite(self._rule, weight.value) as go:
            if go:
                edit()
            return bool(go)

    def _report(
        self, weights: Sequence[Weight], zeros: Mapping[str, int], ctx: PassContext
    ) -> None:
        details = [_detail(weight, zeros[weight.name]) for weight in weights]
        for each in details:
            if each["zeros"] == each["elements"]:
                ctx.warn(f"prune: every element of {each['name']!r} is zero")
        elements = sum(each["elements"] for each in details)
        ctx.details["sparsity"] = sum(zeros.values()) / elements if elements else 0.0
        ctx.details["weights"] = details
        ctx.details["bytes"] = storage.sizes(
            (weight.tensor.size, zeros[weight.name], weight.tensor.dtype.itemsize)
            for weight in weights
        )


def _replacing(weight: Weight, tensor: ir.TensorProtocol) -> Callable[[], None]:
    return lambda: weight.replace(tensor)


def _detail(weight: Weight, zeros: int) -> dict[str, Any]:
    size = weight.tensor.size
    return {
        "name": weight.name,
        "elements": size,
        "zeros": zeros,
        "sparsity": zeros / size if size else 0.0,
    }
