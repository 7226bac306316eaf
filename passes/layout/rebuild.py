# SPDX-License-Identifier: Apache-2.0
"""Rebuilding the nodes of a region in the form that was chosen for each."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.edit import remove_unused, replace_value, take_names
from burnish.passes.layout.moves.permutation import Perm, inverse
from burnish.passes.layout.place import Sides
from burnish.passes.layout.regions import Region, Tensor
from burnish.passes.rule import Builder
from burnish.passes.shapes import infer_node


def rebuild(
    graph: ir.Graph, root: ir.Graph, region: Region, sides: Sides, op: Builder
) -> dict[ir.Value, ir.Value]:
    """Run each node in the form of its side, and put Transposes where a tensor is wanted in both.

    Args:
        graph: The graph the region is in.
        root: The outermost graph around it, among whose names new ones are unique.
        region: What is rebuilt.
        sides: The form each of its nodes shall run in.
        op: Builds the nodes.

    Returns:
        What was made anew of values outside the region, which another one may begin at.
    """
    rebuilding = _Rebuilding(graph, root, region, op)
    rebuilding.run(sides)
    return rebuilding.replaced


class _Rebuilding:
    def __init__(self, graph: ir.Graph, root: ir.Graph, region: Region, op: Builder) -> None:
        self.graph = graph
        self.root = root
        self.region = region
        self.op = op
        self.tensor_of = {value: tensor for tensor in region.tensors() for value in tensor.values}
        # What there is of each tensor, by the value that is computed first, and the form.
        self.there: dict[tuple[ir.Value, int], ir.Value] = {}
        # Values outside the region that its nodes made, and what they make instead.
        self.replaced: dict[ir.Value, ir.Value] = {}

    def run(self, sides: Sides) -> None:
        stored = self.region.values
        moving = {node for node in sides if sides[node] != self.region.form_of(node)}
        for value, tensor in self.tensor_of.items():
            first = tensor.values[0]
            if first.producer() not in moving:  # then its Transposes can stay, too
                self.there.setdefault((first, stored[value].form), value)
        for node in [node for node in self.graph if node in moving]:
            self.move(node, sides[node])
        gone = moving | self.region.switches.keys()
        for value, tensor in self.tensor_of.items():
            if value.is_graph_output() or not gone.issuperset(value.consumers()):
                replace_value(value, self.get(tensor, stored[value].form))
        remove_unused(gone)

    def move(self, node: ir.Node, side: int) -> None:
        """Build a node in its other form, and note what it makes."""
        move = self.region.moves[node]
        inputs = {}
        for index in move.inputs:
            value = node.inputs[index]
            assert value is not None
            inputs[index] = self.get(self.tensor_of[value], side)
        made = move.build(self.op, node, inputs)
        outputs = made if isinstance(made, tuple) else (made,)
        self.place(node, before=node)
        for index, (old, new) in enumerate(zip(node.outputs, outputs, strict=True)):
            perm = move.outputs.get(index)
            if perm is None:
                if old.name:
                    replace_value(old, new)
                    self.replaced[old] = new
                continue
            _shape(new, old, perm)
            self.there[self.tensor_of[old].values[0], side] = new

    def get(self, tensor: Tensor, form: int) -> ir.Value:
        """Return a tensor in one form, by a Transpose of the other if need be."""
        first = tensor.values[0]
        found = self.there.get((first, form))
        if found is not None:
            return found
        source = self.there[first, 1 - form]
        perm = tensor.perm if form != self.region.values[first].form else inverse(tensor.perm)
        made: ir.Value = self.op.Transpose(source, perm=list(perm))
        producer = source.producer()
        if producer is not None and producer.graph is self.graph:
            self.place(producer, after=producer)
        else:
            self.place(self.graph[0], before=self.graph[0])
        _shape(made, source, perm)
        self.there[first, form] = made
        return made

    def place(
        self, named: ir.Node, *, before: ir.Node | None = None, after: ir.Node | None = None
    ) -> None:
        """Put what was built into the graph, named after a node."""
        nodes, constants = self.op.nodes, self.op.initializers
        for node in nodes:
            infer_node(node, self.op.opset_imports)
            if named.metadata_props:
                node.metadata_props.update(named.metadata_props)
        take_names(nodes, constants, named, self.root)
        for value in constants:
            self.graph.register_initializer(value)
        if before is not None:
            self.graph.insert_before(before, nodes)
        else:
            assert after is not None
            self.graph.insert_after(after, nodes)
        self.op.nodes, self.op.initializers = [], []


def _shape(new: ir.Value, old: ir.Value, perm: Perm) -> None:
    new.type = old.type
    if old.shape is not None:
        new.shape = ir.Shape([old.shape[axis] for axis in perm])
