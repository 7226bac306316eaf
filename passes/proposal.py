# SPDX-License-Identifier: Apache-2.0
"""A replacement beside the graph: built, inferred, measured if it may lose, and then put in.

For passes that find what they replace by walking the graph; what a pattern can say is a rule
(`burnish.passes.rule`), whose driver does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from burnish.passes.context import PassContext, describe
from burnish.passes.edit import discard, remove_unused, replace_value, take_names, use_count
from burnish.passes.rule import Builder, NoMatch
from burnish.passes.shapes import infer_node


@dataclass(frozen=True)
class Proposal:
    """New nodes for old ones.

    Attributes:
        replaced: The old nodes; the new ones take the name of the first.
        op: Has built the new nodes.
        pairs: Old and new value for each output.
    """

    replaced: Sequence[ir.Node]
    op: Builder
    pairs: Sequence[tuple[ir.Value, ir.Value]]

    def infer(self, opset_imports: Mapping[str, int]) -> None:
        """Infer shapes and types of the new nodes."""
        like = {new: old for old, new in self.pairs}
        for node in self.op.nodes:
            infer_node(node, opset_imports, like.get(node.outputs[0]))

    def loss(
        self, rule: str, operator: str, opset_imports: Mapping[str, int], ctx: PassContext
    ) -> NoMatch | None:
        """Say that it loses on the target, if that is measured and it does.

        Args:
            rule: Name of the rewrite.
            operator: What the target's table of preferences calls it.
            opset_imports: Version of each domain.
            ctx: Of the pass.
        """
        first = self.replaced[0]
        if ctx.decisions is None or not ctx.allows(rule, first):
            return None
        decision = ctx.decisions.decide(
            rule, describe(first), operator, self.pairs, self.op.nodes, opset_imports, ()
        )
        reason = decision.refusal
        return None if reason is None else NoMatch(reason, decision.repair)

    def put_in(self, model: ir.Model, place: ir.Node | None = None) -> None:
        """Replace the old nodes.

        Args:
            model: It gives the new names.
            place: What the new nodes are put before; the first of the old ones by default. No
                reader of what is replaced may come before it.
        """
        first = self.replaced[0]
        place = first if place is None else place
        graph = place.graph
        assert graph is not None
        take_names(self.op.nodes, self.op.initializers, first, model.graph)
        for value in self.op.initializers:
            if use_count(value):
                graph.register_initializer(value)
        graph.insert_before(place, self.op.nodes)
        for old, new in self.pairs:
            replace_value(old, new)
        remove_unused(self.replaced)

    def withdraw(self) -> None:
        """Leave the graph as it is."""
        discard(self.op.nodes)
