# SPDX-License-Identifier: Apache-2.0
"""The pattern of a constant affine function."""

from __future__ import annotations

from typing import Any

AFFINE = ("Add", "Sub", "Mul", "Div")
"""The operators that are affine functions if one of their inputs is constant."""


def affine_pattern(op: Any, x: Any, c: Any, *, shared: bool = False) -> Any:
    """Pattern of an affine function of x that is bound as `affine`."""
    return op.either(
        op.one_of(*AFFINE)(x, c, _bind="affine", _shared=shared),
        op.Sub(c, x, _bind="affine", _shared=shared),
    )
