# SPDX-License-Identifier: Apache-2.0
"""Fixing weights one after the other, while those that are still free make up for the error.

A layer with weights w (a row) and inputs X loses `e (X X^T) e^T` when its weights change by e. Let
H = X X^T. If weight j is fixed at q, the best change of the free ones F is, in closed form,

    delta = -(w_j - q) / [H_F^-1]_jj * [H_F^-1]_j,:

and costs `(w_j - q)^2 / [H_F^-1]_jj`. (B. Hassibi and D. Stork, "Optimal Brain Surgeon", 1993;
E. Frantar and D. Alistarh, "Optimal Brain Compression", 2022, section 4.) With one order of columns
for all rows, the inverses needed are rows of one matrix, the upper Cholesky factor U of H^-1:
`[H_F^-1]_j,: = U_jj U_j,:` (E. Frantar et al., "GPTQ", 2023, section 3, step 3). What is fixed at
what is up to the caller: rounded to a grid it is GPTQ, set to zero by a mask it is SparseGPT.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from burnish.passes.sketch import Array

Fix = Callable[[int, NDArray[np.float64]], Array]
"""(column, current weights [rows] of that column) -> what to fix them at."""

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, as in GPTQ."""

LAZY = 128
"""Columns between two updates of all that follow."""


def damped(second: NDArray[np.float64], share: float = DAMPING) -> NDArray[np.float64]:
    """Return H + share * mean(diag H) * 1, which is positive definite.

    Columns that are never fed anything weigh nothing in H: damping alone keeps them in place.

    Args:
        second: H, [K, K], symmetric and positive semidefinite.
        share: Not negative; raised tenfold as often as needed to make H regular.
    """
    share = max(share, 1e-12)
    while True:
        result = ridge(second, share)
        try:
            np.linalg.cholesky(result)
        except np.linalg.LinAlgError:
            share *= 10
        else:
            return result


def ridge(second: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return H + share * mean(diag H) * 1, whether or not that is positive definite."""
    result = second.copy()
    mean = abs(float(np.diagonal(second).mean())) or 1.0
    result[np.diag_indices_from(result)] += share * mean
    return result


def compensate(
    rows: Array,
    second: NDArray[np.float64],
    fix: Fix,
    *,
    order: NDArray[np.intp] | None = None,
    begin: Callable[[int, NDArray[np.float64]], None] | None = None,
    lazy: int = LAZY,
    factor: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fix all columns of a matrix in turn; those that follow make up for each error.

    Args:
        rows: Weights [rows, K].
        second: H, [K, K], positive definite: see `damped`.
        fix: Says what the weights of a column become. Columns are numbered as in `rows`.
        order: Permutation of the columns: which is fixed first; as they lie by default.
        begin: Called before a column is fixed, with its number and the current weights [rows, K];
            only without `order`. The weights have made up for all columns before, but for those
            that lie beyond the next multiple of `lazy`.
        lazy: Columns after which all that follow are brought up to date, together.
        factor: `inverse_factor(second)`, if it is known; only without `order`.

    Returns:
        The fixed weights [rows, K], float64.
    """
    size = rows.shape[1]
    order = np.arange(size) if order is None else order
    upper = inverse_factor(second[np.ix_(order, order)]) if factor is None else factor
    # Columns are rows here, so that each lies together.
    left = np.ascontiguousarray(rows.astype(np.float64).T[order])
    fixed = np.empty_like(left)
    for start in range(0, size, lazy):
        stop = min(start + lazy, size)
        errors = np.empty((stop - start, left.shape[1]))
        for j in range(start, stop):
            if begin is not None:
                begin(j, left.T)
            fixed[j] = fix(int(order[j]), left[j])
            error = errors[j - start] = (left[j] - fixed[j]) / upper[j, j]
            left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * error
        left[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty_like(fixed)
    result[order] = fixed
    return np.ascontiguousarray(result.T)


def least_squares(
    rows: Array, second: NDArray[np.float64], keep: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the weights that are zero outside a mask and lose the least, in closed form.

    Of a row w with the weights S kept, `w_S + H_SS^-1 H_SR w_R`, R being the rest: least squares
    for the outputs of the whole row. (B. Hassibi and D. Stork, 1993; E. Frantar and D. Alistarh,
    "SparseGPT", 2023, section 3.1.) Rows with the same mask are solved together.

    Args:
        rows: Weights [rows, K].
        second: H, [K, K], positive definite: see `damped`.
        keep: Mask [rows, K], or [K] for all rows.
    """
    masks = np.broadcast_to(keep, rows.shape)
    wide = rows.astype(np.float64)
    result = np.zeros_like(wide)
    distinct, which = np.unique(masks, axis=0, return_inverse=True)
    for index, mask in enumerate(distinct):
        same = np.flatnonzero(which.reshape(-1) == index)
        kept, rest = np.flatnonzero(mask), np.flatnonzero(~mask)
        if not kept.size:
            continue
        moved = np.linalg.solve(second[np.ix_(kept, kept)], second[np.ix_(kept, rest)])
        result[np.ix_(same, kept)] = wide[np.ix_(same, kept)] + wide[np.ix_(same, rest)] @ moved.T
    return result


def inverse_factor(second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper U with U^T U = H^-1, of a positive definite H [K, K]: see `damped`.

    `(w_j / U_jj)^2` is what it costs to set the weight of column j to zero while those behind it
    make up for it.

    With J the reversal of order, J H J = L L^T gives H^-1 = (J L^-T J) (J L^-1 J), whose right
    factor is upper triangular; H itself is never inverted.
    """
    lower = np.linalg.cholesky(second[::-1, ::-1])
    inverse = np.linalg.solve(lower, np.eye(len(lower)))
    return np.ascontiguousarray(inverse[::-1, ::-1])
