# SPDX-License-Identifier: Apache-2.0
"""Least squares under any mask, for all rows at once, by conjugate gradients.

What `least_squares` solves with one factorization for each distinct mask is solved here for a
matrix of weights whose rows all have masks of their own: minimize, with S the weights kept,

    trace (W' - W) H (W' - W)^T     W' zero outside S

The gradient of a row is `(w' - w) H`, its entries outside S taken as zero; a step is one product
[rows, K] x [K, K] whatever the masks. Preconditioned by H's diagonal, tens of steps suffice.
(X. Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
Models", 2024, section 3.2.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.passes.prune.pattern import Mask
from burnish.passes.sketch import Array

STEPS = 100
"""Most steps."""

TOLERANCE = 1e-2
"""Norm of what is left of a row's gradient, as a share of what it is at zero weights. Smaller ones
change nothing on samples held out."""


def refit(
    rows: Array,
    second: NDArray[np.float64],
    keep: Mask,
    start: Array | None = None,
    *,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> NDArray[np.float64]:
    """Return the weights that are zero outside a mask and lose the least.

    Args:
        rows: Weights to come close to, [rows, K].
        second: H, [K, K], positive definite: see `compensate.ridge`.
        keep: What may differ from zero, [rows, K].
        start: Weights to begin from, [rows, K]; those of `rows` by default. The loss never rises.
        steps: Most steps.
        tolerance: When a row is done.
    """
    wide = rows.astype(np.float64)
    found = np.where(keep, wide if start is None else start.astype(np.float64), 0.0)
    inverse = 1.0 / np.diagonal(second)
    residual = np.where(keep, (wide - found) @ second, 0.0)
    scaled = residual * inverse
    direction = scaled
    inner = np.einsum("ij,ij->i", residual, scaled)
    whole = wide @ second
    limit = tolerance**2 * np.einsum("ij,ij->i", whole, whole * inverse)
    for _ in range(steps):
        going = inner > limit
        if not going.any():
            break
        ahead = np.where(keep, direction @ second, 0.0)
        curvature = np.einsum("ij,ij->i", direction, ahead)
        going &= curvature > 0
        step = np.divide(inner, curvature, out=np.zeros_like(inner), where=going)[:, None]
        found += step * direction
        residual -= step * ahead
        scaled = residual * inverse
        new = np.einsum("ij,ij->i", residual, scaled)
        ratio = np.divide(new, inner, out=np.zeros_like(inner), where=going)[:, None]
        direction = scaled + ratio * direction
        inner = np.where(going, new, 0.0)
    return found
