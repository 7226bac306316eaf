# SPDX-License-Identifier: Apache-2.0
"""The pass that applies the local rules: no-ops, views, chains, neutral elements, picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.cleanup import (
    bounds,
    broadcast,
    chains,
    neutral,
    no_op,
    picks,
    scalars,
    views,
)
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class Simplify(RulePass):
    """Removes operators that do nothing, and merges chains of those that only move data."""

    name: ClassVar[str] = "simplify"
    rules: ClassVar[tuple[Rule, ...]] = (
        *no_op.RULES,
        *neutral.RULES,
        *views.RULES,
        *chains.RULES,
        *bounds.RULES,
        *broadcast.RULES,
        *picks.RULES,
        *scalars.RULES,
    )
