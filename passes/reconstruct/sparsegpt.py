# SPDX-License-Identifier: Apache-2.0
"""SparseGPT: zero weights column by column, and let those that follow make up for it.

E. Frantar and D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
One-Shot" (2023), algorithm 1. The sweep is that of GPTQ (`burnish.passes.reconstruct.compensate`);
what goes is chosen some columns at a time, from the weights as they are then, by what it costs,

    (w_j / U_jj)^2      U: the upper Cholesky factor of (X X^T + damping)^-1

so that weights which made up for others are worth more. N:M patterns are chosen group by group,
single weights and blocks within the columns of a step (section 3.2 there: "adaptive mask
selection"). The cost of a block is taken to be the sum of its weights'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.passes.prune.pattern import Blocks, Kept, Mask, Pattern
from burnish.passes.reconstruct.compensate import (
    DAMPING,
    LAZY,
    compensate,
    damped,
    inverse_factor,
)
from burnish.passes.sketch import Array


def sparsegpt(
    rows: Array,
    second: NDArray[np.float64],
    pattern: Pattern,
    ratio: float,
    *,
    damping: float = DAMPING,
    step: int = LAZY,
) -> NDArray[np.float64]:
    """Zero weights for the least error of their outputs.

    Args:
        rows: Weights [rows, K], whose columns fall into the groups or blocks of the pattern.
        second: X X^T of their inputs, [K, K].
        pattern: What goes together.
        ratio: Share of blocks, or of the way to N:M, as `pattern` takes it.
        damping: Share of the mean of the diagonal of X X^T that is added to it.
        step: Columns that are chosen from together, if the pattern leaves that open.

    Returns:
        Weights [rows, K], float64.
    """
    width = pattern.of if isinstance(pattern, Kept) else pattern.columns
    step = max(1, step // width) * width
    window = width if isinstance(pattern, Kept) else step
    regular = damped(second, damping)
    upper = inverse_factor(regular)
    pivots = np.diagonal(upper)
    gone: Mask = np.zeros(rows.shape, bool)

    def begin(column: int, current: NDArray[np.float64]) -> None:
        if column % window:
            return
        part = slice(column, column + window)
        costs = np.square(current[:, part] / pivots[part])
        share = ratio
        if isinstance(pattern, Blocks):  # so many in all, wherever the windows end
            whole = len(rows) // pattern.rows
            ends = [whole * end // pattern.columns for end in (column, column + costs.shape[1])]
            before, after = (round(ratio * end) for end in ends)
            share = (after - before) / (ends[1] - ends[0])
        gone[:, part] = pattern.drop(costs, share)

    def fix(column: int, weights: NDArray[np.float64]) -> Array:
        return np.where(gone[:, column], 0.0, weights)

    return compensate(rows, regular, fix, begin=begin, lazy=step, factor=upper)
