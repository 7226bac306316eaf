# SPDX-License-Identifier: Apache-2.0
"""Weights of an attention that are masked once more behind its softmax, as DeBERTa and WeNet do.

What was hidden already has no weight, but in rows that are hidden whole, whose equal weights become
0 as well. That is what a fused attention gives where the hidden scores are minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.fuse.attention.mask_kinds import Added, Mask, Replaced
from burnish.passes.fuse.attention.minus_infinity import far, lowest
from burnish.passes.rule import NoMatch


def zeroed_too(
    masks: Sequence[Mask], again: ir.Value, *, keeps: bool
) -> tuple[Mask, ...] | NoMatch:
    """Return masks that hide with minus infinity what is made 0 behind the softmax too.

    Args:
        masks: Those of the scores.
        again: Condition by which weights are chosen behind the softmax.
        keeps: Which of its two values leaves a weight as it is.
    """
    wanted = _plain(again, keeps)
    for index, mask in enumerate(masks):
        if isinstance(mask, Replaced) and _plain(mask.condition, mask.keeps) == wanted:
            others = (*masks[:index], *masks[index + 1 :])
            if any(map(_hides, others)):
                # A row that all of them together hide is not 0 but for what is masked again.
                return NoMatch("of several masks, not all are masks behind the softmax too")
            if mask.fill > lowest(ir.DataType.FLOAT):
                return NoMatch("what is masked is not far enough below the scores")
            hidden = Replaced(mask.condition, mask.keeps, -np.inf)
            return (*masks[:index], hidden, *masks[index + 1 :])
    return NoMatch("what is masked behind the softmax was not masked before it")


def _plain(condition: ir.Value, keeps: bool) -> tuple[ir.Value, bool]:
    """Take Not off a condition."""
    node = condition.producer()
    while node is not None and node.op_type == "Not" and node.inputs[0] is not None:
        condition, keeps = node.inputs[0], not keeps
        node = condition.producer()
    return condition, keeps


def _hides(mask: Mask) -> bool:
    """Whether a mask may leave nothing of a row to be seen."""
    if not isinstance(mask, Added):
        return True
    array, node = as_array(mask.value), mask.value.producer()
    if array is not None:
        return not bool((np.abs(array) < -lowest(ir.DataType.FLOAT)).all())
    # What is computed of the tokens is a bias; masks are chosen, or scaled by what is vast.
    if node is None or node.op_type == "Where":
        return True
    factors = [scalar_of(item) for item in node.inputs] if node.op_type in ("Mul", "Div") else []
    return any(factor is not None and abs(factor) > -far(ir.DataType.FLOAT) for factor in factors)
