# SPDX-License-Identifier: Apache-2.0
"""Regions: what could be stored in either of two orders of axes, between Transposes that switch.

From a Transpose on, everything that moves (see `moves`) is gathered, through further Transposes
that switch between the same two forms. In a region each value has an original form, 0 or 1, and the
permutation that takes it to its other one. A tensor and what Transposes make of it are one tensor
in two forms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from burnish.passes.fuse.product.chain import makes_map_of_rows
from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.permutation import Perm, inverse, is_identity
from burnish.passes.layout.moves.table import move_of
from burnish.passes.rule import Builder, NoMatch


@dataclass(frozen=True)
class Stored:
    """How a value is stored.

    Attributes:
        form: 0 or 1, as the model came.
        perm: What takes it to the other form.
    """

    form: int
    perm: Perm


@dataclass
class Tensor:
    """A value and what Transposes make of it.

    Attributes:
        values: The one that is computed first, then those that Transposes make.
        perm: What takes the first one to the other form.
    """

    values: list[ir.Value]
    perm: Perm


@dataclass
class Region:
    """Nodes that move together, and the Transposes among and around them.

    Attributes:
        values: How each of its values is stored.
        moves: Its nodes that can move, and how.
        switches: Its Transposes.
    """

    values: dict[ir.Value, Stored] = field(default_factory=dict)
    moves: dict[ir.Node, Move] = field(default_factory=dict)
    switches: dict[ir.Node, None] = field(default_factory=dict)

    def form_of(self, node: ir.Node) -> int:
        """Return the form in which a node that can move runs, as the model came."""
        move = self.moves[node]
        placed = [node.inputs[i] for i in move.inputs] + [node.outputs[i] for i in move.outputs]
        return next(self.values[value].form for value in placed if value is not None)

    def follow(self, replaced: Mapping[ir.Value, ir.Value]) -> None:
        """Take values that were made anew for what they were."""
        self.values = {replaced.get(value, value): how for value, how in self.values.items()}

    def tensors(self) -> list[Tensor]:
        """Return the tensors of the region, in the order they were found."""
        found: dict[ir.Value, Tensor] = {}
        for value in self.values:
            root = value
            while (node := root.producer()) is not None and node in self.switches:
                assert node.inputs[0] is not None
                root = node.inputs[0]
            tensor = found.setdefault(root, Tensor([root], self.values[root].perm))
            if value is not root:
                tensor.values.append(value)
        return list(found.values())


Refuse = Callable[[ir.Node, str], None]


def regions_of(graph: ir.Graph, op: Builder, refuse: Refuse) -> Iterator[Region]:
    """Find the regions of a graph; each value belongs to at most one.

    Args:
        graph: Without its subgraphs.
        op: Asked for attributes; builds nothing.
        refuse: Told where a node could have moved, and why it does not.
    """
    taken: set[ir.Value] = set()
    for node in graph:
        if _switch_of(node) is not None and not taken & {*node.inputs, *node.outputs}:
            region = _Finder(graph, op, refuse, taken).grow(node)
            taken |= region.values.keys()
            yield region


def _switch_of(node: ir.Node) -> Perm | None:
    """Return the permutation of a Transpose, if it is known."""
    if node.op_type != "Transpose" or node.domain != "":
        return None
    data, attribute = node.inputs[0], node.attributes.get("perm")
    if data is None or data.shape is None or (attribute is not None and attribute.is_ref()):
        return None
    rank = len(data.shape)
    perm = tuple(reversed(range(rank))) if attribute is None else tuple(attribute.as_ints())
    return None if is_identity(perm) or len(perm) != rank else perm


class _Finder:
    """Grows one region from a Transpose."""

    def __init__(self, graph: ir.Graph, op: Builder, refuse: Refuse, taken: set[ir.Value]) -> None:
        self.graph = graph
        self.op = op
        self.refuse = refuse
        self.taken = taken
        self.region = Region()
        self.fixed: set[ir.Node] = set()
        self.pending: deque[ir.Value] = deque()

    def grow(self, node: ir.Node) -> Region:
        perm, data = _switch_of(node), node.inputs[0]
        assert perm is not None
        assert data is not None
        self.store(data, Stored(0, perm))
        while self.pending:
            value = self.pending.popleft()
            producer = value.producer()
            if producer is not None:
                self.visit(producer, value)
            for user in dict.fromkeys(value.consumers()):
                self.visit(user, value)
        return self.region

    def store(self, value: ir.Value, stored: Stored) -> None:
        if value not in self.region.values:
            self.region.values[value] = stored
            self.pending.append(value)

    def fits(self, value: ir.Value, stored: Stored) -> bool:
        if value in self.taken or value.shape is None or len(value.shape) != len(stored.perm):
            return False
        return self.region.values.get(value, stored) == stored

    def visit(self, node: ir.Node, value: ir.Value) -> None:
        if node.graph is not self.graph or node in self.fixed or node in self.region.moves:
            return
        stored = self.region.values[value]
        if _switch_of(node) is not None:
            self.switch(node, value, stored)
            return
        move = None if makes_map_of_rows(node) else move_of(self.op, node, value, stored.perm)
        if move is None:
            self.fixed.add(node)
            return
        reason = move.reason if isinstance(move, NoMatch) else self.join(node, move, stored.form)
        if reason:
            self.fixed.add(node)
            self.refuse(node, reason)

    def switch(self, node: ir.Node, value: ir.Value, stored: Stored) -> None:
        """Cross a Transpose, if it switches between the two forms."""
        perm, data = _switch_of(node), node.inputs[0]
        assert perm is not None
        assert data is not None
        if value is data:
            other, fits = node.outputs[0], perm == stored.perm
        else:
            other, fits = data, inverse(perm) == stored.perm
        there = Stored(1 - stored.form, inverse(stored.perm))
        if fits and self.fits(other, there):
            self.region.switches[node] = None
            self.store(other, there)

    def join(self, node: ir.Node, move: Move, form: int) -> str:
        """Take a node in, or say why not."""
        wanted = [(node.inputs[index], perm) for index, perm in move.inputs.items()]
        wanted += [(node.outputs[index], perm) for index, perm in move.outputs.items()]
        if any(item is None or not self.fits(item, Stored(form, perm)) for item, perm in wanted):
            return "its axes are wanted in yet another order"
        self.region.moves[node] = move
        for item, perm in wanted:
            assert item is not None
            self.store(item, Stored(form, perm))
        return ""
