# SPDX-License-Identifier: Apache-2.0
"""Pruning: make weights zero that matter little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.prune.magnitude import Cut, has_nan, magnitude_keys, pieces
from burnish.passes.prune.select import Keys, kth_smallest
from burnish.passes.prune.weights import QUANTIZED, SLOTS, Choice, Weight, find_weights
from burnish.passes.shapes import infer_shapes

_RULE = "prune-magnitude"
_DEFAULT_SPARSITY = 0.5


@dataclass(frozen=True)
class Prune(Pass):
    """Zero the weights of smallest magnitude.

    Of n weights, `round(sparsity * n)` are zero afterwards, exactly: those of smallest magnitude,
    and of equal ones the first. Weights that were zero count. Shapes stay as they are, so a dense
    runtime is not faster; the model compresses better.

    (S. Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015.)

    The report's `details` hold `sparsity`, the share of zeros in all weights that may be pruned,
    and `weights`: of each its `name`, number of `elements` and of `zeros`, and its `sparsity`.
    """

    name: ClassVar[str] = "prune"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)
    lossless: ClassVar[bool] = False

    sparsity: float | None = option(
        None, help="share of weights to zero; 0.5 unless a threshold is given", min=0, max=1
    )
    threshold: float | None = option(
        None, help="zero what is smaller, rounded to the weight's dtype", min=0
    )
    scope: str = option(
        "layer",
        help="sparsity of each weight, or of all together",
        choices=("layer", "global"),
    )
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes or weights")
    ops: tuple[str, ...] = option(tuple(SLOTS), help="operators to prune", choices=tuple(SLOTS))
    depthwise: bool = option(False, help="prune depthwise convolutions, too")
    min_size: int = option(256, help="leave weights with fewer elements alone", min=0)

    def __post_init__(self) -> None:
        """Refuse two goals at once."""
        super().__post_init__()
        if self.sparsity is not None and self.threshold is not None:
            raise InputError("options 'sparsity' and 'threshold' exclude each other")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find the weights, decide where to cut, and cut."""
        infer_shapes(model)
        weights = self._weights(model, ctx)
        details: list[dict[str, Any]] = []
        for weight, cut in zip(weights, self._cuts(weights, ctx), strict=True):
            before, after = cut.zeros(weight.tensor)
            if after > before:
                with ctx.rewrite(_RULE, weight.value) as go:
                    if go:
                        weight.replace(cut.tensor(weight.tensor))
                    else:
                        after = before
            details.append(_detail(weight, after))
            if after == weight.tensor.size:
                ctx.warn(f"prune: every element of {weight.name!r} is zero")
        elements = sum(each["elements"] for each in details)
        zeros = sum(each["zeros"] for each in details)
        ctx.details["sparsity"] = zeros / elements if elements else 0.0
        ctx.details["weights"] = details

    def _weights(self, model: ir.Model, ctx: PassContext) -> list[Weight]:
        reasons: Counter[str] = Counter()

        def refuse(where: ir.Node | ir.Value, reason: str) -> None:
            reasons[reason] += 1
            ctx.refuse(_RULE, where, reason)

        choice = Choice(self.ops, self.exclude, self.depthwise, self.min_size)
        weights = []
        for weight in find_weights(model, choice, refuse):
            if has_nan(weight.tensor):
                refuse(weight.value, "an element is not a number")
            else:
                weights.append(weight)
        if reasons[QUANTIZED]:
            ctx.warn(f"prune: left {reasons[QUANTIZED]} weights alone that are {QUANTIZED}")
        if not weights:
            why = reasons.most_common(1)[0][0] if reasons else "no operator that has weights"
            ctx.warn(f"prune: nothing to prune: {why}")
        return weights

    def _cuts(self, weights: Sequence[Weight], ctx: PassContext) -> Iterator[Cut]:
        shown = ctx.progress(weights, len(weights), "prune")
        if self.threshold is not None:
            return (_at_threshold(weight.tensor, self.threshold) for weight in shown)
        sparsity = _DEFAULT_SPARSITY if self.sparsity is None else self.sparsity
        if self.scope == "layer":
            return (_smallest([weight], sparsity)[0] for weight in shown)
        return iter(_smallest(weights, sparsity, ctx))


def _at_threshold(tensor: ir.TensorProtocol, threshold: float) -> Cut:
    with np.errstate(over="ignore"):  # beyond the dtype's range it is infinite, as it should be
        limit = np.asarray([threshold]).astype(tensor.dtype.numpy())
    bits = _bits([tensor])
    return Cut(int(magnitude_keys(limit, bits)[0]), 0, bits)


def _smallest(
    weights: Sequence[Weight], sparsity: float, ctx: PassContext | None = None
) -> list[Cut]:
    """Return one cut a weight that together zero the given share of the smallest elements."""
    bits = _bits([weight.tensor for weight in weights])
    count = round(sparsity * sum(weight.tensor.size for weight in weights))
    if count == 0:
        return [Cut(0, 0, bits) for _ in weights]

    def keys() -> Iterator[Keys]:
        shown = weights if ctx is None else ctx.progress(weights, len(weights), "prune: magnitudes")
        for weight in shown:
            for piece in pieces(weight.tensor):
                yield magnitude_keys(piece, bits)

    found = kth_smallest(keys, count, bits)
    ties = count - found.below
    cuts = [Cut(found.key, ties, bits) for _ in weights]
    if len(weights) > 1 and ties < found.equal:  # the first weights take them
        for index, weight in enumerate(weights):
            own = min(ties, cuts[index].equal(weight.tensor))
            cuts[index] = Cut(found.key, own, bits)
            ties -= own
    return cuts


def _bits(tensors: Sequence[ir.TensorProtocol]) -> int:
    return 64 if any(tensor.dtype == ir.DataType.DOUBLE for tensor in tensors) else 32


def _detail(weight: Weight, zeros: int) -> dict[str, Any]:
    size = weight.tensor.size
    return {
        "name": weight.name,
        "elements": size,
        "zeros": zeros,
        "sparsity": zeros / size if size else 0.0,
    }
