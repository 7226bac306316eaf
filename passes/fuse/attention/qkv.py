# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of an attention that fit together: of one type, on four axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.attention.heads import unrepeated
from burnish.passes.fuse.attention.scores import FUSE_BEFORE, Scores
from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.rule import Builder, NoMatch, Operand

Parts = tuple[Operand, Operand, Operand]
HEADS = np.array([1])
"""The axis of the heads."""


def parts_of(
    op: Builder, found: Scores, values: ir.Value, *, shared: bool, flat: bool
) -> Parts | NoMatch:
    """Return queries, keys and values `[batch, heads, length, size]` that fit together.

    Args:
        op: Builds what is still needed.
        found: What the scores are made of.
        values: As they are multiplied.
        shared: Several heads of queries may have one of keys and values.
        flat: They have three axes, be it that heads and batches share one; then there is one head.
    """
    queries, keys, times, again = found.queries, found.keys, 1, 1
    if queries.dtype != values.dtype:
        queries, keys = _narrow(queries, values.dtype), _narrow(keys, values.dtype)
    if not queries.dtype == keys.dtype == values.dtype:
        return NoMatch("queries, keys and values have different types")
    if found.factor is not None:
        queries = inferred(op, op.Mul(queries, found.factor))
    if found.keys_perm is not None:
        keys = inferred(op, op.Transpose(keys, perm=found.keys_perm))
    elif shared:
        (few_keys, times), (few_values, again) = unrepeated(keys), unrepeated(values)
        if times == again:
            keys, values = few_keys, few_values
        else:
            times = 1
    if flat:
        queries, keys, values = (
            inferred(op, op.Unsqueeze(part, HEADS)) for part in (queries, keys, values)
        )
    parts = Operand(queries), Operand(keys), Operand(values)
    if any(_is_dequantized(part) for part in parts):
        return NoMatch("queries, keys or values are quantized", FUSE_BEFORE)
    q, k, v = (part.dims for part in parts)
    if q is None or k is None or v is None:
        return NoMatch("the rank of queries, keys or values is unknown")
    if not len(q) == len(k) == len(v) == 4:
        return NoMatch("queries, keys and values are not of rank 4")
    if not (same_dim(q[0], k[0]) and same_dim(q[0], v[0])):
        return NoMatch("queries, keys and values are not known to have the same batch size")
    if not isinstance(q[1], int) or not isinstance(k[1], int) or k[1] != v[1]:
        return NoMatch("the number of heads is unknown")
    if k[1] * times != q[1] and not (shared and k[1] == 1):
        return NoMatch("queries and keys have different heads")
    return parts


def _narrow(value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    """Return what was cast to a wider type, if it was of `dtype`."""
    cast = value.producer()
    inner = None if cast is None or cast.op_type != "Cast" else cast.inputs[0]
    return inner if inner is not None and inner.dtype == dtype else value


def _is_dequantized(part: Operand) -> bool:
    producer = part.value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def has_dims(result: ir.Value, parts: Parts) -> bool:
    """Whether a value has the shape of the attention: that of its queries, as wide as values."""
    q, _, v = (part.dims for part in parts)
    if result.shape is None or q is None or v is None or len(result.shape) != 4:
        return False
    return all(map(same_dim, result.shape.dims, (*q[:3], v[3])))
