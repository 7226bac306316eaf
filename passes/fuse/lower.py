# SPDX-License-Identifier: Apache-2.0
"""The runtime's own operators in place of standard ones, for targets whose table prefers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.backends.target import Target
from burnish.passes.context import PassContext
from burnish.passes.fuse.activation.bias_gelu import bias_gelu
from burnish.passes.fuse.attention.grouped import (
    attention_to_grouped_query,
    cached_attention_to_grouped_query,
)
from burnish.passes.fuse.norm.embed_norm import embed_layer_norm
from burnish.passes.fuse.norm.skip_norm import skip_layer_norm, skip_rms_norm
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Rule, RulePass

# Operator of the runtime -> what writes it; embeddings before the sums they begin with.
_LOWERED: dict[str, tuple[Rule, ...]] = {
    "EmbedLayerNormalization": (embed_layer_norm,),
    "SkipLayerNormalization": (skip_layer_norm,),
    "SkipSimplifiedLayerNormalization": (skip_rms_norm,),
    "BiasGelu": (bias_gelu,),
    "GroupQueryAttention": (attention_to_grouped_query, cached_attention_to_grouped_query),
}


@dataclass(frozen=True)
class Lower(RulePass):
    """Write the runtime's own fused operators where the target's table of preferences says so."""

    name: ClassVar[str] = "lower"
    rules: ClassVar[tuple[Rule, ...]] = tuple(rule for made in _LOWERED.values() for rule in made)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs, one kind of operator after the other."""
        for operator, rules in _LOWERED.items():
            if _prefers(ctx.target, operator):
                apply_rules(model, rules, ctx)


def _prefers(target: Target, operator: str) -> bool:
    """Whether the target's table prefers an operator, of any type; silence is no preference."""
    name = f"microsoft.{operator}"
    return any(item.operator == name and item.prefer for item in target.preferences)
