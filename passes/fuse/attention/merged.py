# SPDX-License-Identifier: Apache-2.0
"""Softmax of scores whose heads are merged with the batch only then."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def softmax_before_merge(op: Any, scores: Any, merged: Any) -> Any:
    """Softmax(Reshape(scores, 3-D)) -> Reshape(Softmax(scores), 3-D): the last axis stays.

    So attentions are written that multiply three axes, but mask four.
    """
    return op.Softmax(op.Reshape(scores, merged, _bind="merge"), axis=lambda axis: axis in (-1, 2))


@softmax_before_merge.rewrite
def _(op: Builder, scores: Operand, merged: Operand, merge: ir.Node) -> Replacement:
    result = Operand(merge.outputs[0])
    if scores.dims is None or result.dims is None or len(scores.dims) != 4 or len(result.dims) != 3:
        return NoMatch("not four axes become three")
    if not same_dim(scores.dims[-1], result.dims[-1]):
        return NoMatch("the last axis is not known to stay")
    return op.like(merge, op.Softmax(scores, axis=-1), merged)
