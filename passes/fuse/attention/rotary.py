# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, in every spelling, becomes one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.fuse.attention.absorbed_heads import (
    attention_joins_heads,
    cached_attention_joins_heads,
)
from burnish.passes.fuse.attention.rotary_heads import rotary_joins_heads
from burnish.passes.fuse.attention.rotary_pairs import rotary_pairs
from burnish.passes.fuse.attention.rotary_part import rotary_part
from burnish.passes.fuse.attention.rotate_half import rotary
from burnish.passes.fuse.sizes.of_input import size_of_input
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Fuse spelled-out rotary position embedding into one operator."""

    name: ClassVar[str] = "fuse-rotary"
    rules: ClassVar[tuple[Rule, ...]] = (
        size_of_input,  # then all layers share their tables
        rotary,
        rotary_pairs,
        rotary_part,
        rotary_joins_heads,
        attention_joins_heads,
        cached_attention_joins_heads,
    )
