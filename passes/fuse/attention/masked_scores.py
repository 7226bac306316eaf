# SPDX-License-Identifier: Apache-2.0
"""What is put on scores before the softmax: masks, a floor, and the largest of each row taken off.

Masks may be added, subtracted, or chosen. That the largest is taken off, a softmax does not see.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.constant import scalar_of
from burnish.passes.edit import use_count
from burnish.passes.fuse.attention.mask_kinds import Added, Floored, Replaced
from burnish.passes.fuse.attention.minus_infinity import lowest
from burnish.passes.fuse.attention.scores import NO_PRODUCT, Read, Scores
from burnish.passes.rule import NoMatch

_LAST = ((-1,), (3,))


def added(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores that a mask or a bias is added to."""
    a, b = node.inputs
    assert a is not None
    assert b is not None
    reasons: list[NoMatch] = []
    for scores, mask in ((a, b), (b, a)):
        found = read(scores)
        if isinstance(found, Scores):
            if scalar_of(mask) == 0 and len(mask.shape or ()) <= len(scores.shape or ()):
                return found  # as torch.baddbmm with beta=0 leaves behind
            return replace(found, masks=(*found.masks, Added(mask)))
        reasons.append(found)
    return next((reason for reason in reasons if reason is not NO_PRODUCT), NO_PRODUCT)


def subtracted(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores that a mask or their largest is subtracted from, as XLNet and LayoutLMv3 do."""
    scores, mask = node.inputs
    assert scores is not None
    assert mask is not None
    largest = _is_largest(mask, scores)
    found = read(scores, uses=2 if largest else 1)
    if not isinstance(found, Scores):
        return found
    if largest:
        return replace(found, shifted=True)
    return replace(found, masks=(*found.masks, Added(mask, factor=-1)))


def _is_largest(value: ir.Value, scores: ir.Value) -> bool:
    """Whether a value is the largest score of each row, and is used for nothing but to be one."""
    node, kept = value.producer(), 1
    if node is not None and node.op_type == "Unsqueeze" and ints_of(node, "axes", 1) in _LAST:
        assert node.inputs[0] is not None
        inner = node.inputs[0]
        node, kept = inner.producer() if use_count(inner) == 1 else None, 0
    if node is None or node.op_type != "ReduceMax" or use_count(value) > 1:
        return False
    keepdims = node.attributes.get_int("keepdims", 1)
    return node.inputs[0] is scores and keepdims == kept and ints_of(node, "axes", 1) in _LAST


def replaced(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores of which a condition puts a number in the place of some."""
    condition, yes, no = node.inputs
    assert condition is not None
    for scores, other, keeps in ((yes, no, True), (no, yes, False)):
        fill = scalar_of(other)
        if scores is None or fill is None:
            continue
        found = read(scores)
        if not isinstance(found, Scores):
            return found
        return replace(found, masks=(*found.masks, Replaced(condition, keeps, fill)))
    return NoMatch("the scores are chosen by no constant")


def floored(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores that are held above the least number, as XGLM does."""
    for scores, other in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        low = scalar_of(other)
        if scores is None or low is None or scores.dtype is None:
            continue
        if low > lowest(scores.dtype):
            return NoMatch("the scores are cut at a number that some may be below")
        found = read(scores)
        if not isinstance(found, Scores):
            return found
        return replace(found, masks=(*found.masks, Floored(low)))
    return NO_PRODUCT
