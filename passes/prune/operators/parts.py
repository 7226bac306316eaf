# SPDX-License-Identifier: Apache-2.0
"""Operators that put axes together of parts, take parts of them, or order them anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array
from burnish.passes.prune.coupling import Couplings, Dim, Unclear
from burnish.passes.prune.operators.rule import (
    Rules,
    apart_from,
    broadcast,
    entering,
    integers,
    required,
    sized,
)

RULES: Rules = {}
_rule = entering(RULES)


@_rule("Concat")
def _concat(couplings: Couplings, node: ir.Node) -> None:
    result = node.outputs[0]
    rank = len(couplings.shape(result))
    joined = (node.attributes.get_int("axis", 0) or 0) % rank
    for value in node.inputs:
        for axis in range(rank):
            if axis != joined and value is not None:
                couplings.same((value, axis), (result, axis))
    _parts(couplings, (result, joined), [(value, joined) for value in node.inputs if value])


@_rule("Split")
def _split(couplings: Couplings, node: ir.Node) -> None:
    data = required(node, 0)
    axis = (node.attributes.get_int("axis", 0) or 0) % len(couplings.shape(data))
    apart_from(couplings, node, {axis})
    _parts(couplings, (data, axis), [(value, axis) for value in node.outputs])


def _parts(couplings: Couplings, whole: Dim, parts: Sequence[Dim]) -> None:
    sizes = [couplings.size(part) for part in parts]
    if not all(isinstance(size, int) for size in (*sizes, couplings.size(whole))):
        return  # along an axis of unknown size: there is nothing to cut
    start = 0
    for part in parts:
        at = np.arange(sized(couplings, part))
        if at.size:
            couplings.map(part, at, whole, at + start)
        start += at.size


@_rule("Slice")
def _slice(couplings: Couplings, node: ir.Node) -> None:
    data, result = required(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    bounds = slice_bounds(node)
    if bounds is None:
        axes = integers(node, 3, "axes")
        apart_from(couplings, node, set(range(rank) if axes is None else axes))
        return
    apart_from(couplings, node, {axis % rank for axis in bounds})
    for axis, (start, end, step) in bounds.items():
        before = couplings.size((data, axis % rank))
        if isinstance(before, int):
            at = np.arange(before)[start:end:step]
            # With another step it would no longer hit the same indices.
            if step == 1 and at.size > 0 and at.size == couplings.size((result, axis % rank)):
                couplings.map((data, axis % rank), at, (result, axis % rank), np.arange(at.size))


def slice_bounds(node: ir.Node) -> dict[int, tuple[int, int, int]] | None:
    """Return axis -> start, end and step of a Slice; None if they are not constant."""
    try:
        starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
        axes, steps = integers(node, 3, "axes"), integers(node, 4)
    except Unclear:
        return None
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


@_rule("Gather")
def _gather(couplings: Couplings, node: ir.Node) -> None:
    data, indices, result = required(node, 0), required(node, 1), node.outputs[0]
    rank, depth = len(couplings.shape(data)), len(couplings.shape(indices))
    axis = (node.attributes.get_int("axis", 0) or 0) % rank
    for own in range(rank):
        if own != axis:
            couplings.same((data, own), (result, own if own < axis else own + depth - 1))
    picked = as_array(indices)
    size = couplings.size((data, axis))
    if picked is None:
        for own in range(depth):
            couplings.same((indices, own), (result, axis + own))
    elif depth == 1 and isinstance(size, int) and np.unique(picked % size).size == picked.size:
        if picked.size == size == 1:
            return
        couplings.map(
            (data, axis), picked.astype(np.int64) % size, (result, axis), np.arange(picked.size)
        )
        couplings.mention(*couplings.dims(indices))


@_rule("Pad")
def _pad(couplings: Couplings, node: ir.Node) -> None:
    """Axes that are padded stay whole."""
    rank = len(couplings.shape(required(node, 0)))
    try:
        pads, axes = integers(node, 1, "pads"), integers(node, 3)
    except Unclear:
        # Computed for another size: those of equal size, known before and after, are not padded.
        apart_from(couplings, node, set())
        return
    axes = list(range(rank)) if axes is None else axes
    assert pads is not None
    padded = {a for at, a in enumerate(axes) if pads[at] or pads[at + len(axes)]}
    apart_from(couplings, node, padded)


@_rule("Resize", "Upsample")
def _resize(couplings: Couplings, node: ir.Node) -> None:
    """Axes of the same size before and after are not resized."""
    axes = node.attributes.get("axes")
    if axes is not None:
        rank = len(couplings.shape(required(node, 0)))
        apart_from(couplings, node, {axis % rank for axis in axes.as_ints()})
    else:
        apart_from(couplings, node, set())


@_rule("Expand")
def _expand(couplings: Couplings, node: ir.Node) -> None:
    broadcast(couplings, node.inputs[:1], node.outputs[0])


@_rule("Tile")
def _tile(couplings: Couplings, node: ir.Node) -> None:
    repeats = integers(node, 1) or []
    apart_from(couplings, node, {axis for axis, times in enumerate(repeats) if times != 1})


@_rule("Transpose")
def _transpose(couplings: Couplings, node: ir.Node) -> None:
    data, result = required(node, 0), node.outputs[0]
    rank = len(couplings.shape(data))
    order = node.attributes.get_ints("perm", None) or range(rank - 1, -1, -1)
    for now, axis in enumerate(order):
        couplings.same((data, axis), (result, now))


@_rule("DepthToSpace", "SpaceToDepth")
def _depth_to_space(couplings: Couplings, node: ir.Node) -> None:
    deep, flat = (required(node, 0), 1), (node.outputs[0], 1)
    deep, flat = (flat, deep) if node.op_type == "SpaceToDepth" else (deep, flat)
    couplings.same((deep[0], 0), (flat[0], 0))
    sized(couplings, deep)
    sized(couplings, flat)
    by_column = (node.attributes.get_string("mode", "DCR") or "DCR") == "CRD"
    (couplings.blocks if by_column else couplings.cycle)(deep, flat)
