# SPDX-License-Identifier: Apache-2.0
"""What flows between the nodes of a model that depend on its inputs."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir


@dataclass(frozen=True)
class Flow:
    """The nodes of the main graph that depend on inputs, in order, and what flows between them.

    Nodes that depend on constants alone go along with whoever needs them, in every stage.

    Attributes:
        nodes: They.
        index: Node -> its place in `nodes`.
        size: Size of a dimension.
        users: Value that one of them computes -> places of those that need it.
    """

    nodes: list[ir.Node]
    index: dict[ir.Node, int]
    size: Any  # passes.prune.flops.Sizes
    users: dict[ir.Value, list[int]]

    @staticmethod
    def of(
        model: ir.Model,
        dims: Mapping[str, int] | None = None,
        along: Container[ir.Node] = (),
    ) -> Flow:
        """Find it.

        Args:
            model: With shapes inferred.
            dims: Sizes of symbolic dimensions by name.
            along: Further nodes that go along with whoever needs them. None may give an output of
                the model.
        """
        from burnish.passes.prune.flops import Sizes

        inputs = {value for value in model.graph.inputs if not value.is_initializer()}
        moving: set[ir.Value] = set(inputs)
        nodes = []
        for node in model.graph:
            read = list(reads(node))
            # A node without inputs may draw random numbers: it must not run in two stages.
            if any(value in moving for value in read) or not (read or node.op_type == "Constant"):
                moving.update(node.outputs)
                if node not in along:
                    nodes.append(node)
        index = {node: number for number, node in enumerate(nodes)}
        users: dict[ir.Value, list[int]] = {}
        for number, node in enumerate(nodes):
            for value in read_deep(node, index):
                producer = value.producer()
                if producer in index:
                    users.setdefault(value, []).append(number)
        return Flow(nodes, index, Sizes(model, dims), users)

    def sources(self) -> list[set[int]]:
        """Of each node, the places of those whose values it needs."""
        found: list[set[int]] = [set() for _ in self.nodes]
        for value, users in self.users.items():
            producer = value.producer()
            assert producer is not None
            for user in users:
                found[user].add(self.index[producer])
        return found

    def operations(self) -> list[float]:
        """Cost of each node: its products and sums, and one operation for each output element."""
        from burnish.passes.prune.flops import flops

        return [
            flops(node, self.size) + sum(self.elements(value) for value in node.outputs)
            for node in self.nodes
        ]

    def elements(self, value: ir.Value) -> int:
        """Number of elements of a value; sizes that are not known as for random inputs."""
        rank = 0 if value.shape is None else len(value.shape)
        return math.prod(self.size((value, axis)) for axis in range(rank))

    def bytes(self, value: ir.Value) -> int:
        """Bytes of a value, at least 1; four an element where its type is unknown."""
        width = 4.0 if value.dtype is None else value.dtype.itemsize
        return max(1, int(self.elements(value) * width))


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Values that a node reads, those that its subgraphs take from outside among them."""
    from burnish.passes.edit import subgraphs

    yield from (value for value in node.inputs if value is not None)
    for subgraph in subgraphs(node):
        for inner in subgraph.all_nodes():
            for value in inner.inputs:
                if value is not None and value.graph is node.graph:
                    yield value
        yield from (value for value in subgraph.outputs if value.graph is node.graph)


def read_deep(node: ir.Node, index: Mapping[ir.Node, int]) -> list[ir.Value]:
    """What a node reads, and what the nodes that go along with it read; each value once."""
    found = dict.fromkeys(reads(node))
    pending = list(found)
    while pending:
        producer = pending.pop().producer()
        if producer is not None and producer not in index and producer.graph is node.graph:
            further = [value for value in reads(producer) if value not in found]
            found.update(dict.fromkeys(further))
            pending += further
    return list(found)
