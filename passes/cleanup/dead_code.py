# SPDX-License-Identifier: Apache-2.0
"""Dead code: what no output of the model depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import drop_initializer, is_dead, remove_unused, subgraphs
from burnish.passes.report import all_graphs


@dataclass(frozen=True)
class DeadCode(Pass):
    """Removes nodes, optional outputs, initializers and functions that nothing uses."""

    name: ClassVar[str] = "dead-code"
    rule_names: ClassVar[tuple[str, ...]] = (
        "dead-node",
        "unused-output",
        "unused-initializer",
        "unused-function",
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Sweep every graph once from its end, inner graphs after what holds them."""
        _sweep(model.graph, model.opset_imports.get("", 1), ctx)
        _remove_unused_functions(model, ctx)
        for function in model.functions.values():
            _sweep(function.graph, function.opset_imports.get("", 1), ctx)
        for graph in all_graphs(model):
            for value in list(graph.initializers.values()):
                if value.uses() or value.is_graph_input() or value.is_graph_output():
                    continue
                with ctx.rewrite("unused-initializer", value) as go:
                    if go:
                        drop_initializer(value)


def _sweep(graph: ir.Graph, opset: int, ctx: PassContext) -> None:
    """Remove dead nodes from the end up: when a node's turn comes, its users have had theirs."""
    for node in reversed(graph):
        # A node without outputs is there for what it does.
        if node.outputs and is_dead(node):
            with ctx.rewrite("dead-node", node) as go:
                if go:
                    remove_unused([node])
                    continue
        _drop_unused_outputs(node, opset, ctx)
        for inner in subgraphs(node):
            _sweep(inner, opset, ctx)


def _drop_unused_outputs(node: ir.Node, opset: int, ctx: PassContext) -> None:
    """Stop naming optional outputs no one reads, so that the runtime need not compute them."""
    if len(node.outputs) < 2:
        return
    optional = _optional_outputs(node.domain, node.op_type, opset)
    if node.op_type == "Attention" and len(node.inputs) > 4 and node.inputs[4] is not None:
        optional -= {1, 2}  # the runtime takes no past keys and values without giving present ones
    for index, value in enumerate(node.outputs):
        if index not in optional or not value.name or value.uses() or value.is_graph_output():
            continue
        with ctx.rewrite("unused-output", value) as go:
            if go:
                value.name = ""
    named = [index for index, value in enumerate(node.outputs) if value.name]
    if named and named[-1] + 1 < len(node.outputs):
        node.resize_outputs(named[-1] + 1)


@cache
def _optional_outputs(domain: str, op_type: str, opset: int) -> frozenset[int]:
    """Return which outputs may be left out without changing what the others are."""
    import onnx.defs

    if domain != "" or op_type == "BatchNormalization":  # there, the number of outputs is a mode
        return frozenset()
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return frozenset()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return frozenset(i for i, output in enumerate(schema.outputs) if output.option == optional)


def _remove_unused_functions(model: ir.Model, ctx: PassContext) -> None:
    used: set[ir.OperatorIdentifier] = set()
    pending = [model.graph]
    while pending:
        for node in pending.pop().all_nodes():
            key = node.op_identifier()
            if key in model.functions and key not in used:
                used.add(key)
                pending.append(model.functions[key].graph)
    for key in [key for key in model.functions if key not in used]:
        domain, name, overload = key
        with ctx.rewrite("unused-function", ":".join(filter(None, (domain, name, overload)))) as go:
            if go:
                del model.functions[key]
