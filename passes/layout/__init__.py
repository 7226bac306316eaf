# SPDX-License-Identifier: Apache-2.0
"""Layout: Transposes stand where they move least, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.layout import absorb, maps
from burnish.passes.layout.place import Placement
from burnish.passes.layout.rebuild import rebuild
from burnish.passes.layout.regions import regions_of
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch
from burnish.passes.shapes import infer_shapes

_RULE = "place-transposes"
_RULES = (*absorb.RULES, *maps.RULES)


@dataclass(frozen=True)
class Layout(Pass):
    """Move Transposes to where they move least, cancel them, or let operators take them in.

    Functions are left as they are: sizes are not known in there.
    """

    name: ClassVar[str] = "layout"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE, *(item.name for item in _RULES))

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Place the Transposes of each graph anew, then let their neighbours take them in."""
        infer_shapes(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            _place(graph, model, ctx)
        apply_rules(model, _RULES, ctx)


def _place(graph: ir.Graph, model: ir.Model, ctx: PassContext) -> None:
    def refuse(node: ir.Node, reason: str) -> None:
        ctx.refuse(_RULE, node, reason)

    op = Builder(model.opset_imports)
    changed = False
    replaced: dict[ir.Value, ir.Value] = {}
    # All are found before any is changed: what a rewrite makes is where it should be.
    for region in list(regions_of(graph, op, refuse)):
        first = next(iter(region.switches))
        region.follow(replaced)
        sides = Placement(region, op).better()
        if isinstance(sides, NoMatch):
            ctx.refuse(_RULE, first, sides.reason)
            continue
        with ctx.rewrite(_RULE, first) as go:
            if go:
                replaced |= rebuild(graph, model.graph, region, sides, op)
                changed = True
    if changed:
        graph.sort()
