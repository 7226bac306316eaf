# SPDX-License-Identifier: Apache-2.0
"""What is done to the scores of an attention before its softmax: the kinds of masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir


@dataclass(frozen=True)
class Added:
    """A mask or bias that is added to the scores, of their type.

    Attributes:
        value: `[..., queries, keys]`.
        shape: Of the scores, `[batch, heads, queries, keys]`, where the mask has three axes and is
            `[batch * heads, queries or 1, keys]`; else None.
        windows: The mask is `[1, windows, 1, queries, keys]`, and the scores are those of all
            windows of all images one behind another.
        factor: What it has to be multiplied by: less than 0 where it is subtracted.
    """

    value: ir.Value
    shape: ir.Value | None = None
    windows: bool = False
    factor: float = 1.0

    def scaled(self, factor: float) -> Added:
        """Return the mask that is multiplied with the scores."""
        return replace(self, factor=self.factor * factor)


@dataclass(frozen=True)
class Replaced:
    """Scores that are replaced by one number.

    Attributes:
        condition: Boolean, broadcastable to the scores.
        keeps: Which of its two values leaves a score as it is.
        fill: What replaces the others.
        factor: What it was multiplied by.
    """

    condition: ir.Value
    keeps: bool
    fill: float
    factor: float = 1.0

    def scaled(self, factor: float) -> Replaced:
        """Return the mask that is multiplied with the scores."""
        return replace(self, fill=self.fill * factor, factor=self.factor * factor)


@dataclass(frozen=True)
class Floored:
    """Scores below a number are raised to it, which holds what is masked above minus infinity.

    Attributes:
        low: The number, far enough below every score.
    """

    low: float

    def scaled(self, factor: float) -> Floored:
        """Return what is done to the scores once they are multiplied."""
        return replace(self, low=self.low * factor)

    @property
    def factor(self) -> float:
        """Always 1: what it holds is in masks before it, and they tell what both were scaled by."""
        return 1.0


Mask = Added | Replaced | Floored
