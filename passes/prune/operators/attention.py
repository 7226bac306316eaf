# SPDX-License-Identifier: Apache-2.0
"""Fused attention: heads can go, with all that belongs to them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.prune.coupling import Couplings, Dim, Indices, Unclear
from burnish.passes.prune.operators.rule import (
    MICROSOFT,
    Rules,
    entering,
    given,
    required,
    sized,
)

RULES: Rules = {}
_rule = entering(RULES)


@_rule("Attention")
def _attention(couplings: Couplings, node: ir.Node) -> None:
    """Heads can go, those of queries with the one of keys and values they share."""
    query, key, value = (required(node, slot) for slot in range(3))
    rank = len(couplings.shape(query))
    names = ("q_num_heads", "kv_num_heads")
    if rank == 4:
        queries, keys = sized(couplings, (query, 1)), sized(couplings, (key, 1))
    else:
        queries, keys = (node.attributes.get_int(name, 0) or 0 for name in names)
    axis = 1 if rank == 4 else 2
    if not queries or not keys or queries % keys:
        raise Unclear("the number of heads is not known")
    heads = couplings.stand_in("heads", keys)
    couplings.heads.add(heads)
    shared = [(query, axis, queries), (node.outputs[0], axis, queries)]
    own = [(key, axis, keys), (value, axis, keys)]
    own += [(past, 1, keys) for past in node.inputs[4:6] if past is not None]
    own += [(present, 1, keys) for present in node.outputs[1:3] if present.name]
    if (mask := given(node, 3)) is not None:
        axes = couplings.shape(mask)
        for at in range(len(axes) - 3):  # [batch,] of [batch, heads, queries, keys]
            couplings.same((mask, at), (query, 0))
        if len(axes) >= 3 and axes[-3] == queries:
            shared.append((mask, len(axes) - 3, queries))
    for operand in (query, key, value):
        couplings.same((operand, 0), (node.outputs[0], 0))
    for operand, at, count in (*shared, *own):
        _heads(couplings, (operand, at), count, heads)


@_rule("MultiHeadAttention", domain=MICROSOFT)
def _multi_head_attention(couplings: Couplings, node: ir.Node) -> None:
    """Queries, keys and values [batch, sequence, heads * size]; their biases come in one."""
    query = required(node, 0)
    count = node.attributes.get_int("num_heads", 0) or 0
    if any(value is not None for value in node.inputs[6:]):
        raise Unclear("keys and values of the past")
    operands = [required(node, slot) for slot in range(3)]
    if not count or any(len(couplings.shape(operand)) != 3 for operand in operands):
        raise Unclear("queries, keys and values packed together")
    heads = couplings.stand_in("heads", count)
    couplings.heads.add(heads)
    for operand in (*operands, node.outputs[0]):
        couplings.same((operand, 0), (query, 0))
        _heads(couplings, (operand, 2), count, heads)
    if (bias := given(node, 3)) is not None:
        sizes = [sized(couplings, (operand, 2)) for operand in operands]
        each = np.concatenate([np.arange(size) // (size // count) for size in sizes])
        couplings.map((bias, 0), np.arange(sum(sizes)), heads, each)
    if (added := given(node, 5)) is not None and couplings.shape(added)[1] == count:
        _heads(couplings, (added, 1), count, heads)


def _heads(couplings: Couplings, dim: Dim, count: int, heads: Dim) -> None:
    """Couple an axis of `count` heads, whatever the size of each, with the heads to cut."""
    size = sized(couplings, dim)
    shared = count // couplings.sizes[heads]
    if not count or size % count or count % couplings.sizes[heads]:
        raise Unclear("the number of heads is not known")
    at: Indices = np.arange(size)
    couplings.map(dim, at, heads, at // (size // count * shared))
