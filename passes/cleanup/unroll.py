# SPDX-License-Identifier: Apache-2.0
"""A Loop or Scan of a few rounds, known beforehand, becomes its body that many times.

Each round costs the runtime more than most operators in it, and nothing is fused or folded across
the border of a body. The numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.determinism import is_deterministic
from burnish.passes.constant import scalar_of
from burnish.passes.context import PassContext
from burnish.passes.edit import names_of, remove_unused, replace_value
from burnish.passes.loops import hands_on
from burnish.passes.options import option
from burnish.passes.rule import NoMatch
from burnish.passes.shapes import infer_node, infer_shapes

_RULE = "unroll-loop"


@dataclass(frozen=True)
class UnrollLoops(Pass):
    """Unrolls each Loop and Scan of few rounds and a small body, in the main graph.

    Bodies inside bodies are unrolled once what is around them is.
    """

    name: ClassVar[str] = "unroll-loops"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)
    rounds: int = option(8, help="most rounds that are unrolled", min=0)
    nodes: int = option(256, help="most nodes that all rounds together may have", min=0)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Unroll, and clean up what that makes constant."""
        from burnish.passes.cleanup import Cleanup

        infer_shapes(model)
        unrolled, opset = False, model.opset_imports.get("", 1)
        pending = [node for node in model.graph if _is_loop(node)]
        while pending:
            node = pending.pop(0)
            plan = self._plan(node) if opset >= 9 else NoMatch("operators of before opset 9 differ")
            if isinstance(plan, NoMatch):
                ctx.refuse(_RULE, node, plan.reason)
                continue
            with ctx.rewrite(_RULE, node) as go:
                if go:
                    made = _Unrolling(model, node).run(plan)
                    pending += [each for each in made if _is_loop(each)]
                    unrolled = True
        if unrolled:
            Cleanup().run(model, ctx)

    def _plan(self, node: ir.Node) -> int | NoMatch:
        """Return the number of rounds, or why they are not unrolled."""
        rounds = _rounds_of_loop(node) if node.op_type == "Loop" else _rounds_of_scan(node)
        if isinstance(rounds, NoMatch):
            return rounds
        body = node.attributes["body"].as_graph()
        inner = list(body.all_nodes())
        if rounds > self.rounds or rounds * len(inner) > self.nodes:
            return NoMatch("it has more rounds or nodes than `rounds` and `nodes` allow")
        if not all(map(is_deterministic, inner)):
            return NoMatch("it draws random numbers")
        if rounds == 0 and len(node.outputs) > _carried(node):
            return NoMatch("it collects nothing in no round")
        return rounds


def _is_loop(node: ir.Node) -> bool:
    return node.op_type in ("Loop", "Scan") and node.domain == ""


def _rounds_of_loop(node: ir.Node) -> int | NoMatch:
    body = node.attributes["body"].as_graph()
    limit, going = node.inputs[0], node.inputs[1]
    rounds = None if limit is None else scalar_of(limit)
    if rounds is None:
        return NoMatch("the number of rounds is not constant")
    start = None if going is None else scalar_of(going)
    if going is not None and start is None:
        return NoMatch("the condition is not constant")
    if not hands_on(body):
        return NoMatch("the condition may end it early")
    return 0 if start == 0 else max(int(rounds), 0)


def _rounds_of_scan(node: ir.Node) -> int | NoMatch:
    if any(name not in ("body", "num_scan_inputs") for name in node.attributes):
        return NoMatch("it runs along other axes, or backwards")
    data = node.inputs[-1]
    length = None if data is None or not data.shape else data.shape[0]
    return length if isinstance(length, int) else NoMatch("the number of rounds is not constant")


def _carried(node: ir.Node) -> int:
    """Return the number of values that each round hands to the next."""
    if node.op_type == "Loop":
        return len(node.inputs) - 2
    return len(node.inputs) - node.attributes["num_scan_inputs"].as_int()


class _Unrolling:
    """Unrolls one node."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.model = model
        self.node = node
        self.graph = model.graph
        self.names = names_of(model.graph)
        self.made: list[ir.Node] = []

    def run(self, rounds: int) -> list[ir.Node]:
        """Put the rounds in front of the node, and their results in place of its own."""
        node, carried = self.node, _carried(self.node)
        first = 2 if node.op_type == "Loop" else 0
        state = list(node.inputs[first : first + carried])
        collected: list[list[ir.Value]] = [[] for _ in node.outputs[carried:]]
        for number in range(rounds):
            results = self.round(number, state)
            state = list(results[:carried])
            for items, value in zip(collected, results[carried:], strict=True):
                items.append(self.unsqueezed(value))
        joined = [self.call("Concat", items, axis=0) for items in collected]
        for old, new in zip(list(node.outputs), [*state, *joined], strict=True):
            assert new is not None
            if old.uses() or old.is_graph_output():
                replace_value(old, new)
        remove_unused([node])
        return self.made

    def round(self, number: int, state: list[ir.Value | None]) -> list[ir.Value]:
        """Put one round into the graph, and return what it carries on and collects."""
        body = self.node.attributes["body"].as_graph().clone(allow_outer_scope_values=True)
        given: list[ir.Value | None] = list(state)
        if self.node.op_type == "Loop":
            condition = body.inputs[1]
            asked = condition.uses() or condition in body.outputs[1:]
            going = self.constant(True) if asked else None
            given = [self.constant(np.int64(number)), going, *state]
        else:
            for data in self.node.inputs[len(state) :]:
                given.append(self.call("Gather", [data, self.constant(number)], axis=0))
        results = list(body.outputs)
        body.outputs.clear()
        for value in list(body.initializers.values()):
            del body.initializers[value.name or ""]
            value.name = self.names.fresh(value.name or "constant")
            self.graph.register_initializer(value)
        nodes = list(body)
        body.remove(nodes)
        for formal, actual in zip(body.inputs, given, strict=True):
            if actual is not None:
                formal.replace_all_uses_with(actual)
                results = [actual if value is formal else value for value in results]
        self.place(nodes)
        return results[1:] if self.node.op_type == "Loop" else results

    def place(self, nodes: list[ir.Node]) -> None:
        for node in nodes:
            self.rename(node)
            infer_node(node, self.model.opset_imports)
        self.graph.insert_before(self.node, nodes)
        self.made += nodes

    def rename(self, node: ir.Node) -> None:
        """Names of a body are unique in it, but not once it is there several times."""
        node.name = self.names.fresh(node.name or node.op_type)
        for value in node.outputs:
            if value.name:
                value.name = self.names.fresh(value.name)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                self.rename_all(attribute.as_graph())

    def rename_all(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            value.name = self.names.fresh(value.name or "input")
        for value in list(graph.initializers.values()):
            del graph.initializers[value.name or ""]
            value.name = self.names.fresh(value.name or "constant")
            graph.initializers.add(value)
        for inner in graph:
            self.rename(inner)

    def unsqueezed(self, value: ir.Value) -> ir.Value:
        if self.model.opset_imports.get("", 1) < 13:
            return self.call("Unsqueeze", [value], axes=[0])
        return self.call("Unsqueeze", [value, self.constant([0])])

    def call(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        node.outputs[0].name = f"{self.node.name or self.node.op_type}/{op_type}"
        self.place([node])
        return node.outputs[0]

    def constant(self, number: object) -> ir.Value:
        array = np.asarray(number)
        tensor = ir.tensor(array)
        name = self.names.fresh(f"{self.node.name or self.node.op_type}/const")
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value
