# SPDX-License-Identifier: Apache-2.0
"""What a Loop or Scan hands from round to round unchanged is taken from outside instead.

tf2onnx hands all that a while loop reads through its rounds, weights too. In a body, those are no
constants: the runtime cannot prepack them, and no rule folds or quantizes what uses them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value, subgraphs

_RULE = "loop-invariant"


@dataclass(frozen=True)
class LoopInvariants(Pass):
    """Takes what no round of a Loop or Scan changes from outside its body."""

    name: ClassVar[str] = "loop-invariants"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Visit all graphs, outer loops before those in them: what is invariant there is here."""
        _visit(model.graph, model.opset_imports.get("", 1), ctx)
        for function in model.functions.values():
            _visit(function.graph, function.opset_imports.get("", 1), ctx)


def _visit(graph: ir.Graph, opset: int, ctx: PassContext) -> None:
    for node in list(graph):
        if node.domain == "" and (
            node.op_type == "Loop" or (node.op_type == "Scan" and opset >= 9)
        ):
            body = node.attributes["body"].as_graph()
            invariant = _invariant(node, body)
            if invariant:
                with ctx.rewrite(_RULE, node) as go:
                    if go:
                        node = _without(node, body, invariant)
        for inner in subgraphs(node):
            _visit(inner, opset, ctx)


def _places(node: ir.Node) -> tuple[int, int, int]:
    """Return how many inputs of the node and outputs of its body precede the carried values.

    The third number is how many of these there are.
    """
    if node.op_type == "Loop":
        return 2, 1, len(node.inputs) - 2
    return 0, 0, len(node.inputs) - node.attributes["num_scan_inputs"].as_int()


def _invariant(node: ir.Node, body: ir.Graph) -> list[int]:
    """Return which of the carried values come out of the body as they came in."""
    before, behind, carried = _places(node)
    formals = body.inputs[before : before + carried]
    handed_on = body.outputs[behind : behind + carried]
    times = Counter(body.outputs)
    return [
        index
        for index, (formal, value) in enumerate(zip(formals, handed_on, strict=True))
        if _source(value) is formal
        # Without a node, Scan collects wrong numbers in ONNX Runtime 1.31: nothing to compare with.
        and (value is not formal or node.op_type == "Loop")
        and times[formal] == (value is formal)  # no other output: it needs a node of its own
    ]


def _source(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and node.op_type == "Identity":
        if node.domain != "" or node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def _without(node: ir.Node, body: ir.Graph, invariant: list[int]) -> ir.Node:
    """Put a node without those values in the node's place, if any are left; return it."""
    before, behind, _ = _places(node)
    graph = node.graph
    assert graph is not None
    copies = [body.outputs[behind + index].producer() for index in invariant]
    for index in reversed(invariant):
        body.outputs.pop(behind + index)
    remove_unused([copy for copy in copies if copy is not None])
    for index in invariant:
        given = node.inputs[before + index]
        assert given is not None
        body.inputs[before + index].replace_all_uses_with(given)
        replace_value(node.outputs[index], given)
    for index in reversed(invariant):
        body.inputs.pop(before + index)
    dropped = set(invariant)
    kept = [value for index, value in enumerate(node.outputs) if index not in dropped]
    if not kept:
        remove_unused([node])
        return node
    new = ir.Node(
        node.domain,
        node.op_type,
        [value for index, value in enumerate(node.inputs) if index - before not in dropped],
        list(node.attributes.values()),
        num_outputs=len(kept),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    node.attributes.clear()
    graph.insert_before(node, new)
    for old, value in zip(kept, new.outputs, strict=True):
        replace_value(old, value)
    remove_unused([node])
    return new
