# SPDX-License-Identifier: Apache-2.0
"""The operator set that has Attention, for models that have attentions and targets that want it.

It comes before any fusion: what is fused into the runtime's own operators cannot be upgraded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.upgrade import OLDEST, CannotUpgrade, plan

SINCE = 23
"""Operator set of Attention, RotaryEmbedding and RMSNormalization."""


@dataclass(frozen=True)
class AttentionOpset(Pass):
    """Raise the operator set of a model that has attentions to the first with Attention."""

    name: ClassVar[str] = "attention-opset"
    rule_names: ClassVar[tuple[str, ...]] = ("attention-opset",)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Upgrade the model in one rewrite, or say why not."""
        current, target = model.opset_imports.get("", 1), ctx.target
        if not OLDEST <= current < SINCE <= target.max_opset or not has_attention(model):
            return
        where = f"opset {current} -> {SINCE}"
        objection = target.objection_to("Attention", ir.DataType.FLOAT)
        if objection is not None:
            ctx.refuse(self.name, where, objection)
            return
        try:
            change = plan(model, SINCE)
        except CannotUpgrade as error:
            ctx.refuse(self.name, where, str(error))
            return
        with ctx.rewrite(self.name, where) as go:
            if go:
                change()


def has_attention(model: ir.Model) -> bool:
    """Whether a product takes what a Softmax gives, or there is a fused one already."""
    return any(
        node.op_type == "Attention" or (node.op_type == "Softmax" and _is_multiplied(node))
        for node in model.graph.all_nodes()
    )


# What may stand between a Softmax and its product: a guard against NaN, a type, heads apart.
_BETWEEN = frozenset({"Where", "Cast", "Reshape"})


def _is_multiplied(softmax: ir.Node) -> bool:
    """Whether a Softmax goes into a product, perhaps with one of each of `_BETWEEN` between."""
    users = softmax.outputs[0].consumers()
    for _ in range(1 + len(_BETWEEN)):
        if any(user.op_type == "MatMul" for user in users):
            return True
        between = [user for user in users if user.op_type in _BETWEEN]
        users = tuple(user for node in between for user in node.outputs[0].consumers())
    return False
