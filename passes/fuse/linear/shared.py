# SPDX-License-Identifier: Apache-2.0
"""When weights that several nodes use are copied, so that one of them folds into its own."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.constant import is_constant
from burnish.passes.edit import has_one_user, use_count
from burnish.passes.fuse.linear.weights import LINEAR

COPIED_BYTES = 4096
"""Weights that other nodes use too are copied up to this size: less than a file grows by for the
names and shapes of the nodes that go."""

# Most bytes of all copies, where every user of the weights has something of its own to fold.
_COPIES_BYTES = 64 << 20


def may_scale(weights: ir.Value, size: int) -> bool:
    """Whether weights of `size` bytes may be scaled: they have one user, or copies are worth it."""
    return size <= COPIED_BYTES or not _is_shared(weights) or _each_may_copy(weights, size)


def _is_shared(weights: ir.Value) -> bool:
    """Whether weights, behind Transpose and the like too, have another user."""
    value: ir.Value | None = weights
    while value is not None:
        if use_count(value) > 1 or value.is_graph_output():
            return True
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.inputs else None
    return False


def _each_may_copy(weights: ir.Value, size: int) -> bool:
    """Whether every user folds something into the weights, so that the shared ones go.

    Layers that share weights may still be followed by norms of their own; the runtime, too, gives
    each its own weights when it loads the model. What comes out equal is shared again by `dedup`.
    """
    uses = weights.uses()
    if weights.is_graph_output() or len(uses) * size > _COPIES_BYTES:
        return False
    return all(index == 1 and _has_scale_beside(user) for user, index in uses)


def _has_scale_beside(node: ir.Node) -> bool:
    if node.op_type not in LINEAR or node.domain != "":
        return False
    (result,), value = node.outputs, node.inputs[0]
    beside = []
    if value is not None and has_one_user(value):
        beside.append(value.producer())
    if has_one_user(result):
        beside += result.consumers()
    return any(each is not None and _is_scale(each) for each in beside)


def _is_scale(node: ir.Node) -> bool:
    """Whether a node multiplies by constants."""
    if node.domain != "":
        return False
    if node.op_type == "BatchNormalization":
        return True
    return node.op_type in ("Div", "Mul") and any(map(is_constant, node.inputs))
