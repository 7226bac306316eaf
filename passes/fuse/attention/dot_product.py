# SPDX-License-Identifier: Apache-2.0
"""The product of queries and keys, with the constants and the Transpose that stand before it."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.fuse.attention.heads import SWAP_LAST
from burnish.passes.fuse.attention.scale import unscaled
from burnish.passes.fuse.attention.scores import Scores


def dot_product(node: ir.Node) -> Scores:
    """Read the MatMul of an attention's queries and keys."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    queries, ours = unscaled(left)
    transposed, theirs = unscaled(right)
    keys, perm = _untransposed(transposed)
    keys, inner = unscaled(keys)
    return Scores(queries, keys, perm, ours * theirs * inner)


def _untransposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...] | None]:
    """Return the keys before their last two axes were swapped, and what permutes them if not."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and node.domain == "":
        attribute = node.attributes.get("perm")
        perm = () if attribute is None else tuple(attribute.as_ints())
        if node.inputs[0] is not None and len(perm) in (3, 4):
            whole = (*perm[:-2], perm[-1], perm[-2])
            return node.inputs[0], None if whole == tuple(range(len(perm))) else whole
    return value, (0, 2, 1) if value.shape is not None and len(value.shape) == 3 else SWAP_LAST
