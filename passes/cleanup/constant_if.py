# SPDX-License-Identifier: Apache-2.0
"""An If whose condition is constant becomes the branch that is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.constants import constant_before
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.edit import names_of, remove_unused, replace_value, subgraphs


@dataclass(frozen=True)
class ConstantIf(Pass):
    """Inlines the taken branch of an If whose condition is constant."""

    name: ClassVar[str] = "constant-if"
    rule_names: ClassVar[tuple[str, ...]] = ("constant-if",)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Inline in the main graph, its subgraphs, and functions; nested Ifs too."""
        _Inliner(model.graph, ctx, in_function=False).visit(model.graph)
        for function in model.functions.values():
            _Inliner(function.graph, ctx, in_function=True).visit(function.graph)


class _Inliner:
    """Inlines within one graph with its subgraphs, among which names are unique."""

    def __init__(self, root: ir.Graph, ctx: PassContext, *, in_function: bool) -> None:
        self.root = root
        self.ctx = ctx
        self.in_function = in_function
        self.counts: Counter[str] = Counter()  # of the names in use; made when first needed

    def visit(self, graph: ir.Graph) -> None:
        pending = list(graph)[::-1]
        while pending:
            node = pending.pop()
            condition = None
            if node.op_type == "If" and node.domain == "" and node.inputs:
                condition = as_array(node.inputs[0])
            if condition is not None and condition.size == 1:
                with self.ctx.rewrite("constant-if", node) as go:
                    if go:
                        moved = self.inline(node, taken=bool(condition.reshape(())))
                        pending += moved[::-1]
                        continue
            for inner in subgraphs(node):
                self.visit(inner)

    def inline(self, node: ir.Node, *, taken: bool) -> list[ir.Node]:
        """Move the branch's nodes in front of the If, and put its outputs in the If's place."""
        graph = node.graph
        assert graph is not None
        branch = node.attributes["then_branch" if taken else "else_branch"].as_graph()
        self.forget(node.attributes["else_branch" if taken else "then_branch"].as_graph())
        results = list(branch.outputs)
        branch.outputs.clear()
        initializers = list(branch.initializers.values())
        branch.initializers.clear()
        nodes = list(branch)
        branch.remove(nodes)
        for value in (*initializers, *(value for inner in nodes for value in inner.outputs)):
            self.rename_if_taken(value)
        graph.insert_before(node, nodes)
        for value in initializers:
            new = self.register(value, graph, before=nodes[0] if nodes else node)
            results = [new if result is value else result for result in results]
        for old, new in zip(list(node.outputs), results, strict=True):
            if old.uses() or old.is_graph_output():
                replace_value(old, new)
        remove_unused([node])
        return nodes

    def register(self, value: ir.Value, graph: ir.Graph, before: ir.Node) -> ir.Value:
        """Let a graph hold what was an initializer of the branch; returns what stands for it."""
        tensor = value.const_value
        assert tensor is not None
        if graph is not self.root or not self.in_function:
            graph.register_initializer(value)
            return value
        made = constant_before(before, tensor)
        value.replace_all_uses_with(made)
        made.name, value.name = value.name, None
        return made

    def forget(self, graph: ir.Graph) -> None:
        """Free the names of a branch that will be dropped."""
        self.count()
        self.counts.subtract(_names(graph))

    def count(self) -> None:
        if not self.counts:
            self.counts.update(_names(self.root))

    def rename_if_taken(self, value: ir.Value) -> None:
        """Give a value that comes into a wider scope a name that is free there.

        Branches of different Ifs often use the same names.
        """
        if value.name and self.counts[value.name] > 1:
            self.counts[value.name] -= 1
            value.name = names_of(self.root).fresh(value.name)


def _names(root: ir.Graph) -> Iterator[str]:
    for graph in (root, *root.subgraphs()):
        for value in {*graph.inputs, *graph.initializers.values()}:
            yield value.name or ""
        for node in graph:
            for output in node.outputs:
                yield output.name or ""
