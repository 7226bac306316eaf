# SPDX-License-Identifier: Apache-2.0
"""AdaRound: each weight up or down, whichever makes the error of the layer's output least.

M. Nagel, R. Amjad, M. van Baalen, C. Louizos and T. Blankevoort, "Up or Down? Adaptive Rounding for
Post-Training Quantization" (2020). With e the change of a row of weights, each e_j one of two
numbers, the error is the quadratic binary problem (equation 20 there)

    min  e (X X^T) e^T

The paper relaxes it to sigmoids and descends by gradients over batches; X X^T is known here, so
that the problem itself is descended, one weight at a time: turning e_j by d changes the error by
`2 d (e H)_j + d^2 H_jj`, which is computed for all rows at once. Descent begins from the nearest
and from what `compensate` finds with the same two choices, and ends when no single turn helps or
after a number of sweeps: the result is never worse, on the data it is fitted to, than the nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.passes.reconstruct.compensate import compensate, damped
from burnish.passes.sketch import Array

SWEEPS = 20
"""Most sweeps over all weights of a layer."""

_LAZY = 64


def round_weights(
    scaled: Array,
    second: NDArray[np.float64],
    *,
    low: int,
    high: int,
    fixed: NDArray[np.bool_] | None = None,
    sweeps: int = SWEEPS,
) -> NDArray[np.float64]:
    """Round weights up or down.

    Args:
        scaled: Weights by their step, [rows, K]; the step of a row changes no choice within it.
        second: X X^T of the inputs, [K, K].
        low: Least integer.
        high: Largest integer.
        fixed: Weights [rows, K] to be rounded to the nearest.
        sweeps: Most sweeps of descent.

    Returns:
        Integers [rows, K], as float64.
    """
    wide = scaled.astype(np.float64)
    nearest = np.clip(np.rint(wide), low, high)
    down = np.clip(np.floor(wide), low, high)
    up = np.clip(np.floor(wide) + 1, low, high)
    if fixed is not None:
        down, up = np.where(fixed, nearest, down), np.where(fixed, nearest, up)
    regular = damped(second)

    def choose(column: int, weights: NDArray[np.float64]) -> Array:
        middle = (down[:, column] + up[:, column]) / 2
        return np.where(weights > middle, up[:, column], down[:, column])

    best = _descend(nearest, down, up, wide, second, sweeps)
    other = _descend(compensate(wide, regular, choose), down, up, wide, second, sweeps)
    better = _costs(other - wide, second) < _costs(best - wide, second)
    return np.where(better[:, None], other, best)


def _descend(
    start: NDArray[np.float64],
    down: NDArray[np.float64],
    up: NDArray[np.float64],
    wide: NDArray[np.float64],
    second: NDArray[np.float64],
    sweeps: int,
) -> NDArray[np.float64]:
    """Turn weights for as long as the error falls."""
    q = start.T.copy()  # columns are rows here, so that each lies together
    down, up = down.T, up.T
    gradient = second @ (q - wide.T)
    diagonal = np.diagonal(second)
    least = 1e-12 * max(float(diagonal.max()), 1e-300)
    for _ in range(sweeps):
        turned = 0
        for begin in range(0, len(q), _LAZY):
            part = slice(begin, begin + _LAZY)
            moves = np.zeros_like(q[part])
            local, inner = gradient[part].copy(), second[part, part]
            for j in range(len(moves)):
                at = begin + j
                turn = np.where(q[at] == up[at], down[at], up[at]) - q[at]
                gain = turn * (2 * local[j] + turn * diagonal[at])
                turn = np.where(gain < -least, turn, 0.0)
                rows = np.flatnonzero(turn)
                if rows.size:
                    q[at, rows] += turn[rows]
                    moves[j] = turn
                    local[:, rows] += inner[:, j, None] * turn[rows]
                    turned += rows.size
            if moves.any():
                gradient += second[:, part] @ moves
        if not turned:
            break
    return q.T


def _costs(error: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", error @ second, error))
