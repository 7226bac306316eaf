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
from burnish.passes.conversion import OLDEST, CannotUpgrade
from burnish.passes.upgrade import check_runs, plan

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
            check_runs(model, current, SINCE, target)
        except CannotUpgrade as error:
            ctx.refuse(self.name, where, str(error))
            return
        with ctx.rewrite(self.name, where) as go:
            if go:
                change()


def has_attention(model: ir.Model) -> bool:
    """Whether a product takes what a Softmax gives, or there is a fused one already."""
    return any(
        node.op_type == "Attention" or (node.op_type == "Softmax" and _products(node, _BETWEEN))
        for node in model.graph.all_nodes()
    )


def quantized_products(model: ir.Model) -> list[ir.Node]:
    """Return the products that take what a Softmax gives after it was quantized."""
    return [
        product
        for node in model.graph.all_nodes()
        if node.op_type == "Softmax" and not _products(node, _BETWEEN)
        for product in _products(node, _BETWEEN | _ROUNDING)
    ]


# What may stand between a Softmax and its product: a guard against NaN, a type, heads apart.
_BETWEEN = frozenset({"Where", "Cast", "Reshape"})
_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def _products(softmax: ir.Node, between: frozenset[str]) -> list[ir.Node]:
    """Return the products a Softmax goes into, perhaps with one of each of `between` between."""
    users = softmax.outputs[0].consumers()
    for _ in range(1 + len(between)):
        found = [user for user in users if user.op_type == "MatMul"]
        if found:
            return found
        on_the_way = [user for user in users if user.op_type in between]
        users = tuple(user for node in on_the_way for user in node.outputs[0].consumers())
    return []
