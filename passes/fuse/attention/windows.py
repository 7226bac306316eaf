# SPDX-License-Identifier: Apache-2.0
"""Scores of windows, as Swin shifts them: the windows are apart while their masks are added."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.edit import use_count
from burnish.passes.fuse.attention.mask_kinds import Added, Mask
from burnish.passes.fuse.attention.scores import NO_PRODUCT, Read, Scores
from burnish.passes.rule import NoMatch


def windowed(value: ir.Value, whole: ir.Value, read: Read) -> Scores | NoMatch:
    """Read scores `[images * windows, heads, queries, keys]`, masked with the windows apart."""
    masks: list[Mask] = []
    node = value.producer()
    while node is not None and node.op_type == "Add" and use_count(value) == 1:
        mask = next((item for item in node.inputs if _is_for_windows(item, value)), None)
        value = next((item for item in node.inputs if item is not None and item is not mask), value)
        if mask is None:
            return NoMatch("a mask of five axes is not one for each window")
        masks.append(Added(mask, windows=True))
        node = value.producer()
    inner = None if node is None or node.op_type != "Reshape" else node.inputs[0]
    if inner is None or inner.shape is None or whole.shape is None or use_count(value) > 1:
        return NO_PRODUCT
    if len(inner.shape) != 4 or not all(map(same_dim, inner.shape.dims[1:], whole.shape.dims[1:])):
        return NO_PRODUCT
    found = read(inner)
    if not isinstance(found, Scores):
        return found
    return replace(found, masks=(*found.masks, *reversed(masks)))


def _is_for_windows(mask: ir.Value | None, scores: ir.Value) -> bool:
    """Whether a mask is `[1, windows, 1, queries, keys]` as the scores are."""
    if mask is None or mask.shape is None or scores.shape is None or len(mask.shape) != 5:
        return False
    ours, theirs = mask.shape.dims, scores.shape.dims
    known = all(isinstance(dim, int) for dim in ours[2:]) and ours[0] == ours[2] == 1
    return known and all(same_dim(ours[axis], theirs[axis]) for axis in (1, 3, 4))
