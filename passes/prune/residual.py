# SPDX-License-Identifier: Apache-2.0
"""Residual blocks: branches that are added to the one value they are computed from.

All that flows from the inputs to such an addition flows through that value: it is the addition's
immediate dominator, and one of its two operands. (K. Cooper, T. Harvey and K. Kennedy, "A Simple,
Fast Dominance Algorithm", 2001, as in networkx.) Shapes and masks are no part of the flow: mask is
what integer or boolean inputs give without a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from burnish.passes.constant import is_constant, tensor_of
from burnish.passes.context import describe
from burnish.passes.edit import remove_unused, replace_value, subgraphs
from burnish.passes.prune.coupling import sizes_of
from burnish.passes.prune.flops import terms

if TYPE_CHECKING:
    import networkx as nx

    Flow = nx.DiGraph[ir.Value]

Refuse = Callable[[ir.Node, str], None]

FUSED = "its addition is fused: prune blocks before fusing"
SHAPE = "the shape changes in between"
UNKNOWN = "its shape is not known"
OTHER = "the branch reads something else, too"
APART = "neither side is computed from the other"
ELSEWHERE = "the branch is read elsewhere"
NO_LAYER = "there is no layer in the branch"

_SHAPES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class Block:
    """A branch that can go.

    Attributes:
        join: The addition.
        slot: Which of its inputs stays.
        nodes: Those of the branch, in the order of the graph.
    """

    join: ir.Node
    slot: int
    nodes: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """Name of the addition."""
        return describe(self.join)

    @property
    def names(self) -> frozenset[str]:
        """Names of the nodes, their results and their weights."""
        nodes = (self.join, *self.nodes)
        found = {node.name for node in nodes}
        found |= {value.name for node in nodes for value in node.outputs}
        found |= {v.name for node in nodes for v in node.inputs if v is not None and is_constant(v)}
        return frozenset(filter(None, found))


def find_blocks(graph: ir.Graph, refuse: Refuse) -> list[Block]:
    """Find the residual blocks of a graph, in its order.

    Args:
        graph: With shapes inferred.
        refuse: Told why an addition of two results, or of a result and a fused one, is none.
    """
    import networkx as nx

    flow, source = _flow(graph)
    above: dict[ir.Value, ir.Value] = nx.immediate_dominators(flow, source)
    place = {node: at for at, node in enumerate(graph)}
    found = []
    for node in graph:
        if _is_fused(node):
            refuse(node, FUSED)
        sides = [value for value in node.inputs if value is not None and value in flow]
        if not _adds(node) or len(set(sides)) != 2:
            continue
        result = node.outputs[0]
        skip = above[result]
        if skip in sides:
            branch = next(value for value in sides if value is not skip)
            nodes = _branch(node, skip, branch, flow)
            if isinstance(nodes, str):
                refuse(node, nodes)
            else:
                ordered = tuple(sorted(nodes, key=place.__getitem__))
                found.append(Block(node, node.inputs.index(skip), ordered))
        elif sizes_of(sides[0]) == sizes_of(sides[1]):
            refuse(node, _why_not(sides, result, skip, flow))
    return found


def without(model: ir.Model, blocks: Iterable[Block]) -> ir.Model:
    """Return a copy of a model without some of its blocks; shares the weights."""
    copy = model.clone()
    joins = {node.outputs[0].name: node for node in copy.graph if node.outputs}
    for block in blocks:
        remove(joins[block.join.outputs[0].name], block.slot)
    return copy


def remove(join: ir.Node, slot: int) -> ir.Value:
    """Let one side of an addition stand for the sum, which it returns; the other falls away."""
    skip = join.inputs[slot]
    assert skip is not None
    if join.graph is not None:  # else it fell away already, inside of another block
        replace_value(join.outputs[0], skip)
        remove_unused([join])
    return skip


# --- what flows -----------------------------------------------------------------------------------


def _flow(graph: ir.Graph) -> tuple[Flow, ir.Value]:
    """Return the values that carry data, edges from what is read to what it gives, and the source.

    The source stands for where all of it comes from.
    """
    import networkx as nx

    flow: Flow = nx.DiGraph()
    source = ir.Value(name="source")
    flow.add_node(source)
    masks: set[ir.Value] = set()
    for value in graph.inputs:
        if value.is_initializer():
            continue
        if value.dtype is None or value.dtype.is_floating_point():
            flow.add_edge(source, value)
        else:
            masks.add(value)
    for node in graph:
        read = [] if node.op_type in _SHAPES else list(_reads(node))
        fed = [value for value in read if value in flow]
        if not fed and any(value in masks for value in read):
            if any(map(_is_weight, read)):  # such as the table of an embedding
                fed = [source]
            else:
                masks.update(node.outputs)
        flow.add_edges_from((value, result) for value in fed for result in node.outputs)
    return flow, source


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        for inner in graph:
            yield from _reads(inner)


def _is_weight(value: ir.Value) -> bool:
    tensor = tensor_of(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return False
    return sum(size > 1 for size in tensor.shape.numpy()) > 1


# --- which additions ------------------------------------------------------------------------------


def _adds(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in ("Add", "Sum") or len(node.inputs) != 2:
        return False
    dtype = node.outputs[0].dtype
    return dtype is None or dtype.is_floating_point()


def _is_known(value: ir.Value) -> bool:
    sizes = sizes_of(value)
    return sizes is not None and None not in sizes


def _is_fused(node: ir.Node) -> bool:
    added = node.op_type == "FusedConv" and len(node.inputs) == 4
    return added or node.op_type in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")


def _branch(join: ir.Node, skip: ir.Value, branch: ir.Value, flow: Flow) -> set[ir.Node] | str:
    """Return the nodes that fall away with a branch, or why it has to stay."""
    if not _is_known(skip) or not _is_known(join.outputs[0]):
        return UNKNOWN
    if sizes_of(skip) != sizes_of(join.outputs[0]):
        return SHAPE
    inside = (value.producer() for value in _between(skip, branch, flow))
    nodes = {node for node in inside if node is not None}
    if not any(map(terms, nodes)):  # such as part of an activation function
        return NO_LAYER
    pending = list(nodes)
    while pending:
        for value in pending.pop().outputs:
            users = {user for user, _ in value.uses()} - nodes - {join}
            # What takes shapes for the branch alone goes with it.
            if value.is_graph_output() or any(_carries(user, join, flow) for user in users):
                return ELSEWHERE
            nodes |= users
            pending += users
    return nodes


def _carries(node: ir.Node, join: ir.Node, flow: Flow) -> bool:
    return node.graph is not join.graph or any(value in flow for value in node.outputs)


def _between(start: ir.Value, end: ir.Value, flow: Flow) -> set[ir.Value]:
    """Return what lies on the ways from one value to another that it dominates, which it has."""
    inside: set[ir.Value] = set()
    pending = [end]
    while pending:
        value = pending.pop()
        if value is not start and value not in inside:
            inside.add(value)
            pending += flow.pred[value]
    return inside


def _why_not(sides: list[ir.Value], result: ir.Value, common: ir.Value, flow: Flow) -> str:
    left, right = sides
    if right in _between(common, left, flow) or left in _between(common, right, flow):
        return OTHER
    if _is_known(common) and sizes_of(common) != sizes_of(result):
        return SHAPE
    return APART
