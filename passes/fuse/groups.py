# SPDX-License-Identifier: Apache-2.0
"""Reshapes that split channels into groups, and those that put them together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import as_array
from burnish.passes.rule import NoMatch, Operand


def groups_first(x: Operand, split: Operand) -> tuple[int, int] | NoMatch:
    """Return groups and members of each where [N, C, ...] becomes [N, groups, ...]."""
    if x.dims is None or split.dims is None or len(x.dims) < 3 or len(split.dims) < 3:
        return NoMatch("fewer than three axes, or their number is unknown")
    channels, groups = x.dims[1], split.dims[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return NoMatch("the channels are not known to be joined in groups")
    if not same_dim(x.dims[0], split.dims[0]):
        return NoMatch("samples are not known to be kept apart")
    return groups, channels // groups


def groups_last(x: Operand, split: Operand) -> tuple[int, int] | NoMatch:
    """Return groups and members of each where [N, ..., C] becomes [N, ..., groups, members]."""
    if x.dims is None or split.dims is None or len(x.dims) < 3 or len(split.dims) < 4:
        return NoMatch("fewer than three axes, or their number is unknown")
    channels, groups, members = x.dims[-1], split.dims[-2], split.dims[-1]
    if not isinstance(groups, int) or not isinstance(members, int) or channels != groups * members:
        return NoMatch("the channels are not known to be joined in groups")
    before, after = x.dims[:-1], split.dims[:-2]
    apart = [(a, b) for a, b in zip(before, after, strict=False) if not same_dim(a, b)]
    # The sizes of both multiply to the same number: where all others are known, so is the first.
    known = len(before) == len(after) and len(apart) <= 1
    if known or same_dim(before[0], after[0]):
        return groups, members
    return NoMatch("samples are not known to be kept apart")


def splits_channels(x: Operand) -> bool:
    """Whether `x` is a map, [N, C, ...], reshaped to [N, groups, ...]."""
    producer = x.value.producer()
    if producer is None or producer.op_type != "Reshape" or producer.inputs[0] is None:
        return False
    source = Operand(producer.inputs[0])
    found = groups_first(source, x) if (source.rank or 0) > 3 else None
    return bool(found) and source.rank != x.rank


def restores(x: Operand, root: ir.Node) -> bool:
    """Whether a Reshape gives the shape of `x`, of which it has all elements."""
    asked, result = root.inputs[1], root.outputs[0]
    producer = None if asked is None else asked.producer()
    if producer is not None and producer.op_type == "Shape" and producer.inputs[0] is x.value:
        attributes = producer.attributes
        return "end" not in attributes and attributes.get_int("start", 0) == 0
    target = as_array(asked)
    dims: Sequence[Any] | None = result.shape.dims if result.shape else None
    if target is not None:
        dims = target.tolist()
    if x.dims is None or dims is None or len(dims) != len(x.dims):
        return False
    # Since all elements are there, one size need not be known.
    apart = [
        axis for axis, (a, b) in enumerate(zip(dims, x.dims, strict=True)) if not same_dim(a, b)
    ]
    return len(apart) <= 1
