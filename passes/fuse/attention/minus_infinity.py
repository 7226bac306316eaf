# SPDX-License-Identifier: Apache-2.0
"""Minus infinity in masks, which hides a key from a query.

What it is matters in rows that are masked whole: of scores alike, a softmax makes equal weights; of
scores of minus infinity it makes NaN, which exporters turn into 0 behind it. A fused attention
gives 0 for every score at or below the least finite number. So that least number becomes half of
it: still minus infinity to `exp`, and equal weights where there is nothing else. Where every query
certainly sees a key, as under a causal mask, none of this matters.

In float16 nothing is far enough below everything: scores keep some of their digits beside -65504.
What a row masked whole gives there depends on the order of roundings; it is 0 once fused.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.rule import NoMatch

# Far enough below every score that it gets no weight beside one that is not masked.
_LOWEST = {ir.DataType.FLOAT16: -6e4}
_LOWEST_DEFAULT = -1e4
# So far below that the score itself is lost when this is added to it.
_FAR = {ir.DataType.FLOAT16: -6e4}
_FAR_DEFAULT = -1e30
# The least finite numbers, to be halved.
_LEAST = {
    ir.DataType.FLOAT: float(np.finfo(np.float32).min),
    ir.DataType.DOUBLE: float(np.finfo(np.float64).min),
    ir.DataType.BFLOAT16: -3.3895313892515355e38,
}


def lowest(dtype: ir.DataType) -> float:
    """Return the number at or below which a masked score gets no weight at all."""
    return _LOWEST.get(dtype, _LOWEST_DEFAULT)


def far(dtype: ir.DataType) -> float:
    """Return the number at or below which a score is lost when the number is added to it."""
    return _FAR.get(dtype, _FAR_DEFAULT)


def soft(fill: float, dtype: ir.DataType, *, guarded: bool) -> float | NoMatch:
    """Return the number to use for `fill`; see the module's docstring."""
    if fill == -np.inf:
        return fill if guarded else NoMatch("a row masked whole would give NaN")
    if fill > lowest(dtype):
        return NoMatch("what is masked is not far enough below the scores")
    least = _LEAST.get(dtype, -np.inf)
    return least / 2 if fill <= least * 0.99 else fill


def number_of(number: float, dtype: ir.DataType | None) -> np.ndarray:
    """Return a scalar of the type, in which it may be minus infinity."""
    assert dtype is not None
    with np.errstate(over="ignore"):  # what is out of range in float16 is minus infinity there
        return np.asarray(number).astype(dtype.numpy())
