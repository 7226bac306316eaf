# SPDX-License-Identifier: Apache-2.0
"""Attention, however it is spelled, becomes the operator that the target runs fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.cleanup import Cleanup
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.absorbed_heads import (
    attention_joins_heads,
    cached_attention_joins_heads,
)
from burnish.passes.fuse.attention.cache import attention_with_past
from burnish.passes.fuse.attention.causal import causal_attention
from burnish.passes.fuse.attention.heads import swap_last_axes
from burnish.passes.fuse.attention.merged import softmax_before_merge
from burnish.passes.fuse.attention.opset import has_attention, quantized_products
from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.passes.fuse.attention.scores import FUSE_BEFORE, QUANTIZED
from burnish.passes.fuse.attention.tables import choice_by_table
from burnish.passes.fuse.attention.values import values_side_by_side
from burnish.passes.fuse.sizes.sizes import RULES as SIZES
from burnish.passes.fuse.sizes.symbolic_dims import inferred_again
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Fuse attention in every spelling into one operator, where that pays on the target."""

    name: ClassVar[str] = "fuse-attention"
    rules: ClassVar[tuple[Rule, ...]] = (
        *SIZES,
        swap_last_axes,
        softmax_before_merge,
        values_side_by_side,
        choice_by_table,
        attention,
        attention_with_past,
        causal_attention,
        attention_joins_heads,
        cached_attention_joins_heads,
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs, again while it makes more attentions known."""
        for product in quantized_products(model):
            ctx.refuse(attention.name, product, QUANTIZED, repair=FUSE_BEFORE)
        if not has_attention(model):
            return
        left = _softmaxes(model)
        while True:
            # Of sizes that are computed, most are known only after others have been folded.
            with inferred_again(model):
                apply_rules(model, self.rules, ctx)
            if left == (left := _softmaxes(model)) or not left:
                return
            Cleanup().run(model, ctx)


def _softmaxes(model: ir.Model) -> int:
    return sum(node.op_type == "Softmax" for node in model.graph.all_nodes())
