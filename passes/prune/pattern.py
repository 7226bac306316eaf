# SPDX-License-Identifier: Apache-2.0
"""Which weights go together: alone, in blocks, or N of M kept.

Weights are seen as matrices [..., outputs, inputs], the inputs being the axis an output sums over:
the channels C of a Conv's [K, C, R, S], each tap apart; K of a MatMul's [K, N]. So `2:4` is what
NVIDIA's sparse kernels take: of each four consecutive channels two are zero. (A. Mishra et al.,
"Accelerating Sparse Deep Neural Networks", 2021.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.errors import InputError
from burnish.passes.sketch import Array

Mask = NDArray[np.bool_]

_TEXT = re.compile(r"(?:(?P<kept>\d+):(?P<of>\d+)|block:(?P<rows>\d+)x(?P<columns>\d+))")


@dataclass(frozen=True)
class Blocks:
    """Blocks of `rows` outputs by `columns` inputs go as a whole; single weights if 1 x 1."""

    rows: int = 1
    columns: int = 1

    def obstacle(self, outputs: int, inputs: int) -> str | None:
        """Return why a matrix cannot be cut into these blocks."""
        if outputs % self.rows or inputs % self.columns:
            return f"not a multiple of {self.rows}x{self.columns} blocks"
        return None

    def drop(self, scores: Array, ratio: float, *, by_row: bool = False) -> Mask:
        """Choose the blocks of least score: `round(ratio * n)` of n; of equal ones the first.

        Args:
            scores: Of each weight, [..., outputs, inputs]; a block's is their sum.
            ratio: Share of blocks.
            by_row: Compare within each row of blocks, so that each loses the same share.

        Returns:
            What is zeroed, of the shape of `scores`.
        """
        *leading, outputs, inputs = scores.shape
        tiled = (*leading, outputs // self.rows, self.rows, inputs // self.columns, self.columns)
        sums = scores.reshape(tiled).sum(axis=(-3, -1)) if self != Blocks() else scores
        lines = sums.reshape(-1, sums.shape[-1]) if by_row else sums.reshape(1, -1)
        gone = _smallest(lines, round(ratio * lines.shape[1])).reshape(sums.shape)
        return np.repeat(np.repeat(gone, self.rows, axis=-2), self.columns, axis=-1)


@dataclass(frozen=True)
class Kept:
    """N:M: of each `of` consecutive inputs of an output, `kept` at most are not zero."""

    kept: int
    of: int

    @property
    def share(self) -> float:
        """Share of zeros."""
        return 1 - self.kept / self.of

    def obstacle(self, outputs: int, inputs: int) -> str | None:
        """Return why a matrix cannot have this pattern."""
        return f"its inputs are no multiple of {self.of}" if inputs % self.of else None

    def drop(self, scores: Array, ratio: float = 1.0, *, by_row: bool = False) -> Mask:
        """Choose the least of each group; of equal ones the first.

        Args:
            scores: Of each weight, [..., outputs, inputs].
            ratio: Of the way from dense to the pattern, in whole weights.
            by_row: Makes no difference.

        Returns:
            What is zeroed, of the shape of `scores`.
        """
        groups = scores.reshape(-1, self.of)
        return _smallest(groups, round(ratio * (self.of - self.kept))).reshape(scores.shape)


Pattern = Blocks | Kept


def parse(text: str) -> Pattern:
    """Read `N:M`, `block:RxC` or `none`.

    Raises:
        InputError: it is none of these, or empties or keeps everything.
    """
    if text == "none":
        return Blocks()
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InputError(
            f"option 'pattern': {text!r} is no pattern", hint="give N:M, block:RxC or none"
        )
    sizes = {name: int(digits) for name, digits in found.groupdict().items() if digits}
    if "of" in sizes:
        if not 0 < sizes["kept"] < sizes["of"]:
            raise InputError(
                f"option 'pattern': {text!r} keeps nothing, or everything",
                hint="2:4 keeps two of each four",
            )
        return Kept(**sizes)
    if 0 in sizes.values():
        raise InputError(f"option 'pattern': {text!r} is an empty block")
    return Blocks(**sizes)


def conforms(matrix: Array, kept: int, of: int) -> float:
    """Return the share of groups of `of` inputs with at most `kept` that are not zero.

    Args:
        matrix: Weights [..., outputs, inputs]; a group that is not full is filled up with zeros.
        kept: N.
        of: M.
    """
    inputs = matrix.shape[-1]
    if not matrix.size:
        return 1.0
    nonzero = np.add.reduceat(matrix != 0, range(0, inputs, of), axis=-1, dtype=np.int64)
    return float((nonzero <= kept).mean())


def _smallest(lines: Array, count: int) -> Mask:
    """Mark the `count` least of each line; of equal ones the first."""
    gone = np.zeros(lines.shape, bool)
    if count:
        order = np.argsort(lines, axis=1, kind="stable")[:, :count]
        np.put_along_axis(gone, order, True, axis=1)
    return gone
