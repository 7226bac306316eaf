# SPDX-License-Identifier: Apache-2.0
"""What goes by weights alone: of each, of all together, or below a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes.context import PassContext
from burnish.passes.prune.axes import Axes, axes_of
from burnish.passes.prune.magnitude import Cut, magnitude_keys, pieces
from burnish.passes.prune.pattern import Blocks, Pattern
from burnish.passes.prune.select import Keys, kth_smallest
from burnish.passes.prune.weights import Weight
from burnish.passes.prune.zeroing import Drop, Zeroing


def smallest(weight: Weight, ratio: float, pattern: Pattern) -> Zeroing:
    """Zero the share of least magnitude of one weight."""
    if pattern == Blocks():
        return smallest_of_all([weight], ratio)[0]
    return Drop(_axes(weight), pattern, ratio)


def at_random(weight: Weight, ratio: float, pattern: Pattern, seed: tuple[int, int]) -> Zeroing:
    """Zero a share of one weight, whichever."""
    axes = Axes(0, 1) if pattern == Blocks() else _axes(weight)
    return Drop(axes, pattern, ratio, seed)


def at_threshold(tensor: ir.TensorProtocol, threshold: float) -> Cut:
    """Zero what is smaller than a number, rounded to the weight's dtype."""
    with np.errstate(over="ignore"):  # beyond the dtype's range it is infinite, as it should be
        limit = np.asarray([threshold]).astype(tensor.dtype.numpy())
    bits = _bits([tensor])
    return Cut(int(magnitude_keys(limit, bits)[0]), 0, bits)


def smallest_of_all(
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


def _axes(weight: Weight) -> Axes:
    axes = axes_of(weight)
    assert not isinstance(axes, str)
    return axes


def _bits(tensors: Sequence[ir.TensorProtocol]) -> int:
    return 64 if any(tensor.dtype == ir.DataType.DOUBLE for tensor in tensors) else 32
