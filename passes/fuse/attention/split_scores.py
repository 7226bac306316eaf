# SPDX-License-Identifier: Apache-2.0
"""Scores `[batch * heads, queries, keys]`, whose heads are set apart before the softmax."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.attention.heads import apart, splits_heads
from burnish.passes.fuse.attention.mask_kinds import Added, Mask
from burnish.passes.fuse.attention.scores import NO_PRODUCT, Read, Scores
from burnish.passes.fuse.attention.windows import windowed
from burnish.passes.rule import NoMatch


def split_scores(node: ir.Node, read: Read) -> Scores | NoMatch:
    """Read scores `[batch * heads, queries, keys]` that are then split into four axes."""
    inner, shape = node.inputs
    assert inner is not None
    assert shape is not None
    if inner.shape is not None and len(inner.shape) == 5:
        return windowed(inner, node.outputs[0], read)
    if not splits_heads(inner, node.outputs[0]):
        return NO_PRODUCT
    found = read(inner)
    if not isinstance(found, Scores):
        return found
    if found.factor is not None:
        return NoMatch("heads one behind another are scaled")
    queries, keys = apart(found.queries), apart(found.keys)
    if queries is None or keys is None or found.keys_perm is not None:
        return NoMatch("queries or keys are not known to be heads put one behind another")
    masks: list[Mask] = []
    for mask in found.masks:
        if not isinstance(mask, Added) or mask.shape is not None or not _fits(mask.value, inner):
            return NoMatch("a mask of three axes is not added")
        masks.append(replace(mask, shape=shape))
    return replace(found, queries=queries, keys=keys, masks=tuple(masks))


def _fits(mask: ir.Value, scores: ir.Value) -> bool:
    """Whether a mask is as large as the scores on three axes, or has one row for all queries."""
    if mask.shape is None or scores.shape is None or len(mask.shape) != 3:
        return False
    ours, theirs = mask.shape.dims, scores.shape.dims
    alone = ours[1] == 1 or same_dim(ours[1], theirs[1])
    return alone and same_dim(ours[0], theirs[0]) and same_dim(ours[2], theirs[2])
