# SPDX-License-Identifier: Apache-2.0
"""Constants of one number, as parameters of patterns."""

from __future__ import annotations

import numpy as np

from burnish.passes.rule import Operand


def is_scalar(array: np.ndarray) -> bool:
    """Whether a constant holds one number; a predicate for `const`."""
    return array.size == 1


def number(operand: Operand) -> float:
    """Return the number a constant holds."""
    assert operand.array is not None
    return float(operand.array.astype(np.float64).item())
