# SPDX-License-Identifier: Apache-2.0
"""What passes that make a model smaller have in common: how far to go, and what stays out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.errors import BudgetError, InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.prune.weights import QUANTIZED, is_quantized

BUDGETS = ("flops", "params", "latency")


@dataclass(frozen=True)
class Budgeted(Pass):
    """Removes parts of a model; subclasses say which.

    Class attributes:
        amount: Option that says how much goes where there is no budget.
    """

    lossless: ClassVar[bool] = False
    amount: ClassVar[str]

    flops: float | None = option(
        None, help="share of the model's operations that may be left", min=0, max=1
    )
    params: float | None = option(
        None, help="share of the model's parameters that may be left", min=0, max=1
    )
    latency: float | None = option(
        None, help="share of the time for a run that may be left, measured here", min=0, max=1
    )
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes or weights")
    recover: bool = option(
        True, help="with calibration data, fit the layers behind what was cut to make up for it"
    )
    best_effort: bool = option(False, help="go as far as possible where a budget cannot be met")

    def __post_init__(self) -> None:
        """Refuse several goals at once."""
        super().__post_init__()
        goals = [name for name in (self.amount, *BUDGETS) if getattr(self, name) is not None]
        if len(goals) > 1:
            raise InputError(f"options {goals[0]!r} and {goals[1]!r} exclude each other")

    @property
    def rule(self) -> str:
        """Name of the rewrite."""
        return self.name

    @property
    def budget(self) -> str | None:
        """Name of the budget there is."""
        return next((name for name in BUDGETS if getattr(self, name) is not None), None)

    def refuses(self, model: ir.Model, ctx: PassContext) -> bool:
        """Whether the model is quantized, and so left as it is; says so."""
        found = any(is_quantized(node) for node in model.graph.all_nodes())
        if found:
            ctx.refuse(self.rule, model.graph.name or "model", QUANTIZED)
            ctx.warn(f"{self.name}: nothing done: {QUANTIZED}")
        return found

    def missed(self, goal: str, reached: str, ctx: PassContext) -> None:
        """Say that a goal cannot be met, and what is the nearest to it.

        Raises:
            BudgetError: unless the best effort is enough.
        """
        text = f"{self.name}: {goal} cannot be met: {reached}"
        if not self.best_effort:
            raise BudgetError(text, hint="ask for less, or add --best-effort")
        ctx.warn(text)
