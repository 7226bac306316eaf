# SPDX-License-Identifier: Apache-2.0
"""Nodes converted to another opset by ONNX's version converter, none of which sees the model.

The converter works on whole models, copies every weight, and drops metadata, doc strings and
functions. So it is never shown the model: each node whose operator changed between the two opsets
goes alone into a skeleton without weights, one converter call adapts them all, and what comes out
different is put in the node's place. Everything else is not touched, subgraphs included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from burnish.passes.conversion_faults import OtherAxis, correct, meant_a_matrix, obstacle, only_axis
from burnish.passes.edit import names_of
from burnish.passes.shapes import infer_node

if TYPE_CHECKING:
    import onnx


OLDEST = 7
"""Oldest opset upgraded: ONNX Runtime runs none before it, so nothing could be verified."""

# Redefined with almost every opset, but only to take more types.
_UNCHANGED = frozenset({"Constant", "If", "Loop"})

# Nodes to a call of the converter, which takes 5 ms to start and time quadratic in the nodes.
_BATCH = 256

SUCCESSORS = {"Upsample": "Resize", "Scatter": "ScatterElements"}
"""Operators that newer opsets lack, and what takes their place."""


class CannotUpgrade(Exception):
    """A model cannot be upgraded; the message says why, and names the node."""


def convert(graph: ir.Graph, old: int, new: int) -> list[Replacement | OtherAxis]:
    """Convert the nodes of a graph and its subgraphs that differ between two opsets.

    Returns:
        What to apply to the graph, which is not changed yet.

    Raises:
        CannotUpgrade: a node has no equivalent, or the converter fails.
    """
    nodes = [node for node in graph.all_nodes() if _differs(node, old, new)]
    if not nodes:
        return []
    if old < OLDEST:
        raise CannotUpgrade(f"opset {old} is older than {OLDEST}, the oldest ONNX Runtime runs")
    for node in nodes:
        reason = obstacle(node, old, new)
        if reason is not None:
            raise CannotUpgrade(f"{node.op_type} node {node.name!r}: {reason}")
    changes: list[Replacement | OtherAxis] = []
    others: list[ir.Node] = []
    for node in nodes:
        axis = only_axis(node) if meant_a_matrix(node, old, new) else None
        if axis is None:
            others.append(node)
        else:
            changes.append(OtherAxis(node, axis))
    for i in range(0, len(others), _BATCH):
        changes += _convert_batch(others[i : i + _BATCH], old, new)
    return changes


def _convert_batch(nodes: list[ir.Node], old: int, new: int) -> Iterator[Replacement]:
    from onnx import version_converter

    skeleton, outputs = _skeleton(nodes, old)
    try:
        converted = version_converter.convert_version(skeleton, new)
    except Exception as error:  # the converter's errors share no base class
        reason = " ".join(str(error).split())
        raise CannotUpgrade(f"the version converter fails: {reason[:300]}") from error
    fragments = _fragments(converted.graph, outputs, len(nodes))
    for i, node in enumerate(nodes):
        if not _is(fragments[i], skeleton.graph.node[i]):
            yield Replacement(node, fragments[i], i, old, new)


def _differs(node: ir.Node, old: int, new: int) -> bool:
    """Whether the operator was redefined between the opsets in a way a node may feel."""
    import onnx

    if old >= new or node.domain != "" or node.op_type in _UNCHANGED:
        return False
    if node.op_type == "Scan" and old >= 9:
        return False
    try:
        before = onnx.defs.get_schema(node.op_type, old, "")
    except onnx.defs.SchemaError as error:
        raise CannotUpgrade(
            f"{node.op_type} node {node.name!r}: opset {old} has no such operator"
        ) from error
    try:
        after = onnx.defs.get_schema(node.op_type, new, "")
    except onnx.defs.SchemaError:
        return True  # deprecated, as Upsample is: the converter knows a successor
    return after.deprecated or after.since_version != before.since_version


def _skeleton(nodes: list[ir.Node], opset: int) -> tuple[onnx.ModelProto, list[tuple[int, int]]]:
    """Put nodes side by side into a model, unconnected.

    Returns the model, and of each of its outputs the indices of the node and of its output.
    """
    import onnx

    graph = onnx.GraphProto(name="skeleton")
    outputs = []
    for i, node in enumerate(nodes):
        proto = graph.node.add()
        ir.serde.serialize_node_into(proto, node)
        proto.ClearField("doc_string")
        del proto.metadata_props[:]
        for k, value in enumerate(node.inputs):
            if value is not None:
                proto.input[k] = f"{i}.in.{k}"
                _declare(graph.input.add(), proto.input[k], value)
        while proto.input and not proto.input[-1]:  # which the converter would count
            del proto.input[-1]
        for k, value in enumerate(node.outputs):
            if value.name:
                proto.output[k] = f"{i}.out.{k}"
                _declare(graph.output.add(), proto.output[k], value)
                outputs.append((i, k))
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), outputs


def _declare(info: onnx.ValueInfoProto, name: str, value: ir.Value) -> None:
    ir.serde.serialize_value_into(info, ir.Value(name=name, type=value.type, shape=value.shape))


@dataclass(frozen=True)
class _Fragment:
    """What one node became: nodes in order of execution, and the name of each of its outputs."""

    nodes: tuple[onnx.NodeProto, ...]
    outputs: dict[int, str]


def _fragments(
    graph: onnx.GraphProto, outputs: list[tuple[int, int]], count: int
) -> list[_Fragment]:
    """Take a converted skeleton apart again, by what leads to which output."""
    import onnx

    made: list[list[onnx.NodeProto]] = [[] for _ in range(count)]
    names: list[dict[int, str]] = [{} for _ in range(count)]
    owner: dict[str, int] = {}
    # The converter renames some outputs, but keeps their order.
    for value, (i, k) in zip(graph.output, outputs, strict=True):
        owner[value.name] = i
        names[i][k] = value.name
    for node in reversed(graph.node):
        for name in node.output:
            if name in owner:
                i = owner[name]
                made[i].append(node)
                owner.update(dict.fromkeys(node.input, i))
                break
    for tensor in graph.initializer:
        constant = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        made[owner[tensor.name]].append(constant)
    return [_Fragment(tuple(reversed(m)), n) for m, n in zip(made, names, strict=True)]


def _is(fragment: _Fragment, node: onnx.NodeProto) -> bool:
    """Whether a fragment is just the node it came from."""
    if len(fragment.nodes) != 1 or fragment.nodes[0].op_type != node.op_type:
        return False
    same_inputs = fragment.nodes[0].input == node.input
    return same_inputs and _attributes(fragment.nodes[0]) == _attributes(node)


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}


@dataclass(frozen=True)
class Replacement:
    """A node, and the fragment that takes its place."""

    node: ir.Node
    fragment: _Fragment
    index: int
    old: int
    new: int

    def apply(self) -> None:
        """Edit the graph."""
        node, graph = self.node, self.node.graph
        assert graph is not None
        values: dict[str, ir.Value | None] = {"": None}
        values |= {f"{self.index}.in.{k}": value for k, value in enumerate(node.inputs)}
        made = []
        for proto in self.fragment.nodes:
            inputs = [values[name] for name in proto.input]
            attributes = [ir.serde.deserialize_attribute(a) for a in proto.attribute]
            outputs = len(proto.output)
            made.append(ir.Node("", proto.op_type, inputs, attributes, num_outputs=outputs))
            values |= dict(zip(proto.output, made[-1].outputs, strict=True))
        correct(node, made, self.old)
        self._name(made)
        for k, name in self.fragment.outputs.items():
            value = values[name]
            assert value is not None
            _take_over(node.outputs[k], value)
        graph.insert_before(node, made)
        graph.remove(node, safe=True)
        for each in made:
            infer_node(each, {"": self.new})

    def _name(self, made: list[ir.Node]) -> None:
        """Name the nodes after the one they replace; the one of its kind keeps its name."""
        node = self.node
        assert node.graph is not None
        names = names_of(node.graph)
        kind = SUCCESSORS.get(node.op_type, node.op_type)
        heir = next((each for each in made if each.op_type == kind), made[-1])
        heir.doc_string = node.doc_string
        for each in made:
            each.metadata_props.update(node.metadata_props)
            base = f"{node.name}/{each.op_type}"
            each.name = node.name if each is heir else names.fresh(base)
            for value in each.outputs:
                value.name = names.fresh(f"{base}_out")


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value stand wherever another did, under its name."""
    new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, None
