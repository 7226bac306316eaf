# SPDX-License-Identifier: Apache-2.0
"""GPTQ: round weights to a grid column by column, and let those that follow make up for it.

E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers" (2023), algorithm 1. With U the upper Cholesky factor of
(X X^T + damping)^-1, column after column:

    q_j = round(w_j)        w_F <- w_F - (w_j - q_j) / U_jj * U_jF

`burnish.passes.reconstruct.compensate` has the derivation. A block's scale and zero point are found
when its turn comes, from the weights as they are then; with `act_order`, where columns are fixed by
falling X X^T diagonal, from the original weights. What is zero stays zero: it was pruned, and makes
up for nothing. (The same, "SparseGPT", 2023, section 3.5.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from burnish.passes.quant.weights.blocks import BlockScheme, fit_blocks
from burnish.passes.reconstruct.compensate import DAMPING, LAZY, compensate, damped
from burnish.passes.sketch import Array


def gptq(
    rows: Array,
    second: NDArray[np.float64],
    bits: int,
    block: int = 0,
    *,
    symmetric: bool = False,
    search: str = "mse",
    act_order: bool = False,
    damping: float = DAMPING,
) -> tuple[BlockScheme, NDArray[np.uint8]]:
    """Find scales, zero points and integers of weights, for the least error of their outputs.

    Args:
        rows: Weights [rows, K].
        second: X X^T of their inputs, [K, K].
        bits: Width of the integers, 2 to 8.
        block: Weights along a row that share a scale; 0 for the whole row.
        symmetric: As `fit_blocks` has it.
        search: As `fit_blocks` has it.
        act_order: Fix the columns with the largest inputs first. Blocks stay where they are.
        damping: Share of the mean of the diagonal of X X^T that is added to it.

    Returns:
        The scheme, and integers [rows, K].
    """
    count, columns = rows.shape
    width = block or columns
    scheme = fit_blocks(rows, bits, block, symmetric=symmetric, search=search)
    scale = scheme.scale.astype(np.float64)
    middle = float(2 ** (bits - 1))
    zero = np.full(scale.shape, middle)
    if scheme.zero_point is not None:
        zero = scheme.zero_point.astype(np.float64)
    integers = np.empty((columns, count), np.uint8)
    pruned = rows == 0

    def begin(column: int, current: NDArray[np.float64]) -> None:
        if column % width:
            return
        part = current[:, column : column + width].astype(np.float32)
        found = fit_blocks(part, bits, 0, symmetric=symmetric, search=search)
        scale[:, column // width] = found.scale[:, 0]
        if found.zero_point is not None:
            zero[:, column // width] = found.zero_point[:, 0]

    def fix(column: int, weights: NDArray[np.float64]) -> Array:
        step, offset = scale[:, column // width], zero[:, column // width]
        q = np.clip(np.rint(weights / step) + offset, 0, 2**bits - 1)
        q = np.where(pruned[:, column], offset, q)
        integers[column] = q
        return np.asarray((q - offset) * step)

    fixed = compensate(
        rows,
        damped(second, damping),
        fix,
        order=np.argsort(-np.diagonal(second), kind="stable") if act_order else None,
        begin=None if act_order or width >= columns else begin,
        # The weights of a block are all up to date when its scale is found.
        lazy=width * max(1, LAZY // width) if width < columns else LAZY,
    )
    difference = fixed - rows
    made = replace(
        scheme,
        scale=scale.astype(np.float32),
        zero_point=None if scheme.zero_point is None else zero.astype(np.uint8),
        squared_error=float(np.vdot(difference, difference)),
    )
    return made, np.ascontiguousarray(integers.T)
