# SPDX-License-Identifier: Apache-2.0
"""Run any onnxscript rewrite rules as a pass. Needs the extra `onnxscript`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.errors import InputError, require
from burnish.passes.context import PassContext
from burnish.passes.foreign import ForeignPass, blaming, run_foreign
from burnish.passes.options import option


@dataclass(frozen=True)
class OnnxScript(ForeignPass):
    """Apply onnxscript rewrite rules, then remove what they left unused.

    The object may be a `RewriteRuleSet`, a list of rules, one rule, a rule class, or a function
    that returns one of these.
    """

    name: ClassVar[str] = "onnxscript"
    rules: str = option("", help="the rules, as module:name")

    def prepare(self) -> None:
        """Check that onnxscript is installed."""
        require("onnxscript", extra="onnxscript")

    def accept(self, item: Any) -> Any:
        """Return a rule set."""
        from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

        found: Any = item
        if isinstance(item, type) and issubclass(item, RewriteRuleClassBase):
            found = found.rule()
        elif callable(item) and not isinstance(item, RewriteRule | RewriteRuleSet):
            found = found()
        if isinstance(found, RewriteRuleSet):
            return found
        rules = list(found) if isinstance(found, Sequence) else [found]
        if not rules or not all(isinstance(rule, RewriteRule) for rule in rules):
            raise InputError(f"{self.text} holds no onnxscript rewrite rules")
        return RewriteRuleSet(rules)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Apply the rules to a copy of the model."""
        import onnx_ir.passes.common

        common: Any = onnx_ir.passes.common

        def transform(copy: ir.Model) -> ir.Model | None:
            with blaming(f"onnxscript rules {self.text}"):
                if not self.item.apply_to_model(copy):
                    return None
            # As `onnxscript.rewriter.rewrite` does.
            for tidy in (
                common.RemoveUnusedNodesPass(),
                common.RemoveUnusedFunctionsPass(),
                common.RemoveUnusedOpsetsPass(),
            ):
                tidy(copy)
            return copy

        run_foreign(self.rule, transform, model, ctx)


def onnxscript(rules: Any) -> OnnxScript:
    """Return a pass that applies onnxscript rewrite rules.

    burnish.optimize("m.onnx", [onnxscript([mul_by_1_rule, add_0_rule]), "fuse"])
    """
    return OnnxScript.of(rules)
