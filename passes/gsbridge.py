# SPDX-License-Identifier: Apache-2.0
"""Carry a model to onnx-graphsurgeon and back without its weights, and without losses.

A `gs.Graph` has no place for much of a model, and reads every weight into memory. So the weights
stay where they are, each constant of the graph standing for one and reading it only when a function
asks for its values; and the graph is exported twice, before the function and after it: where the
two exports agree, the original stands, with all that graphsurgeon dropped.

Imported only when a graphsurgeon pass runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import onnx
import onnx_graphsurgeon as gs  # noqa: TID253  (this module itself is imported late)
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.fingerprint import QUANTIZATION_ANNOTATION, fingerprint, graph_fingerprint
from burnish.passes.foreign import blaming
from burnish.passes.gsweights import Weights
from burnish.passes.report import all_graphs

_LISTS = frozenset(getattr(onnx.AttributeProto, name) for name in ("FLOATS", "INTS", "STRINGS"))
_CARRIED = _LISTS | frozenset(
    getattr(onnx.AttributeProto, name) for name in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH")
)


def through_graphsurgeon(
    model: ir.Model, name: str, function: Callable[[gs.Graph], gs.Graph | None]
) -> ir.Model | None:
    """Apply a graphsurgeon function to `model`, which is used up; None if it changes nothing.

    What the function prints goes to stderr, as graphsurgeon's own log does.

    Raises:
        InputError: the function raises, returns something else than a graph, or leaves a graph
            that is none; or the model has a form that graphsurgeon cannot express.
    """
    _check(model)
    weights = Weights()
    weights.detach(model)
    proto = ir.to_proto(model)
    _hide_what_is_not_carried(proto)
    with contextlib.redirect_stdout(sys.stderr):
        with gs.logger.G_LOGGER.suppress():
            graph = gs.import_onnx(proto)
            weights.lend(graph)
            before = _exported(graph, weights, proto)
        with blaming(f"graphsurgeon function {name}"):
            returned = function(graph)
            result = graph if returned is None else returned
            if not isinstance(result, gs.Graph):
                raise TypeError(f"it returned a {type(result).__name__}, not a gs.Graph or None")
            # `gs.Graph.copy` forgets them.
            result.producer_name = result.producer_name or proto.producer_name
            result.producer_version = result.producer_version or proto.producer_version
            with gs.logger.G_LOGGER.suppress(gs.logger.G_LOGGER.ERROR):
                after = _exported(result, weights, proto)
            after.graph.sort()
            for each in after.functions.values():
                each.sort()
    if fingerprint(before) == fingerprint(after):
        return None
    _restore_model(model, before, after)
    weights.attach(after)
    return after


def _check(model: ir.Model) -> None:
    for domain, name, overload in model.functions:
        if overload:
            raise InputError(f"function {domain}::{name} has overloads, unknown to graphsurgeon")
    for graph in all_graphs(model):
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPHS:
                    raise InputError(
                        f"node {node.name!r}: attribute {attribute.name!r} holds a list of "
                        "graphs, unknown to graphsurgeon"
                    )


def _exported(graph: gs.Graph, weights: Weights, original: onnx.ModelProto) -> ir.Model:
    weights.take(graph)
    weights.exporting = True
    try:
        proto = gs.export_onnx(graph, do_type_check=False)
    finally:
        weights.exporting = False
    _put_initializers_in_place(proto.graph, original.graph)
    model: ir.Model = ir.from_proto(proto)
    return model


def _put_initializers_in_place(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Undo what graphsurgeon does to initializers: drop unused ones, copy outer ones to subgraphs.

    One that only a subgraph uses, also as the subgraph's output, is seen as unused by it, too.
    """
    have = {tensor.name for tensor in graph.initializer}
    made = {name for node in graph.node for name in node.output} | {v.name for v in graph.input}
    used = {name for node in original.node for name in node.input}
    used |= {value.name for value in original.output}
    inner = {tensor.name: tensor for each in _subgraphs(graph) for tensor in each.initializer}
    for tensor in original.initializer:
        if tensor.name in have or tensor.name in made:
            continue
        if tensor.name in inner:
            graph.initializer.append(inner[tensor.name])
        elif tensor.name not in used:
            graph.initializer.append(tensor)
    _drop_copies(graph, frozenset())


def _drop_copies(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in outer:
            del graph.initializer[index]
    names = outer | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _drop_copies(attribute.g, names)


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from _subgraphs(attribute.g)


def _hide_what_is_not_carried(proto: onnx.ModelProto) -> None:
    """Take out what graphsurgeon fails on; it is put back as all else that it drops."""
    graphs = [proto.graph, *_subgraphs(proto.graph)]
    nodes = [graph.node for graph in graphs] + [function.node for function in proto.functions]
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.WhichOneof("value") not in (None, "tensor_type"):
                value.ClearField("type")
    for node in (node for each in nodes for node in each):
        for index in reversed(range(len(node.attribute))):
            attribute = node.attribute[index]
            if attribute.ref_attr_name:
                continue
            empty = attribute.type in _LISTS and not (
                attribute.floats or attribute.ints or attribute.strings
            )
            if empty or attribute.type not in _CARRIED:
                del node.attribute[index]


# Putting back what was dropped. Everywhere: `old` is the original, `before` and `after` the exports
# of it without and with the function.


def _restore_model(old: ir.Model, before: ir.Model, after: ir.Model) -> None:
    after.metadata_props.update(old.metadata_props)
    after.doc_string = old.doc_string
    after.domain = old.domain
    after.model_version = old.model_version
    after.device_configurations = old.device_configurations
    for name in ("producer_name", "producer_version", "ir_version"):
        if getattr(before, name) == getattr(after, name):
            setattr(after, name, getattr(old, name))
    _restore_graph(old.graph, before.graph, after.graph)
    for identifier, function in list(after.functions.items()):
        original = old.functions.get(identifier)
        if original is None:
            continue
        exported = before.functions[identifier]
        if graph_fingerprint(exported.graph) == graph_fingerprint(function.graph):
            after.functions[identifier] = original
        else:
            _restore_graph(original.graph, exported.graph, function.graph)


def _restore_graph(old: ir.Graph, before: ir.Graph, after: ir.Graph) -> None:
    after.metadata_props.update(old.metadata_props)
    for name in ("name", "doc_string"):
        if getattr(before, name) == getattr(after, name):
            setattr(after, name, getattr(old, name))
    _restore_inputs(old, after)
    _restore_order(old, after)
    olds, befores = _values(old), _values(before)
    for name, value in _values(after).items():
        if name in olds:
            _restore_value(olds[name], befores.get(name), value)
    old_nodes, before_nodes = _nodes(old), _nodes(before)
    for key, node in _nodes(after).items():
        if key in old_nodes and key in before_nodes:
            _restore_node(old_nodes[key], before_nodes[key], node)


def _restore_inputs(old: ir.Graph, after: ir.Graph) -> None:
    """Inputs with a default, which are initializers too: graphsurgeon keeps only the default."""
    names = {value.name for value in after.inputs}
    for index, value in enumerate(old.inputs):
        default = after.initializers.get(value.name or "")
        if value.is_initializer() and default is not None and value.name not in names:
            after.inputs.insert(index, default)


def _restore_order(old: ir.Graph, after: ir.Graph) -> None:
    """Initializers: those of the original first, as they were."""
    found = dict(after.initializers)
    after.initializers.clear()
    for name in [name for name in old.initializers if name in found]:
        after.initializers[name] = found.pop(name)
    after.initializers.update(found)


def _restore_value(old: ir.Value, before: ir.Value | None, after: ir.Value) -> None:
    after.metadata_props.update(old.metadata_props)
    after.doc_string = old.doc_string
    if QUANTIZATION_ANNOTATION in old.meta:
        after.meta[QUANTIZATION_ANNOTATION] = old.meta[QUANTIZATION_ANNOTATION]
    if before is not None and before.type == after.type and before.shape == after.shape:
        after.type, after.shape = old.type, old.shape


def _restore_node(old: ir.Node, before: ir.Node, after: ir.Node) -> None:
    after.metadata_props.update(old.metadata_props)
    after.doc_string = old.doc_string
    after.version = old.version
    for name, attribute in old.attributes.items():
        mine, exported = after.attributes.get(name), before.attributes.get(name)
        if exported is None and mine is None:
            after.attributes[name] = attribute
        elif exported is not None and mine is not None:
            mine.doc_string = attribute.doc_string
            if mine.type == exported.type == attribute.type == ir.AttributeType.GRAPH:
                _restore_graph(attribute.as_graph(), exported.as_graph(), mine.as_graph())


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    return {value.name: value for value in values if value.name}


def _nodes(graph: ir.Graph) -> dict[tuple[str, ...], ir.Node]:
    """Return nodes by operator and name; nameless ones by their first output's name."""
    keyed: dict[tuple[str, ...], ir.Node] = {}
    for node in graph:
        first = node.outputs[0].name or "" if node.outputs else ""
        key = (node.domain, node.op_type, *((node.name,) if node.name else ("", first)))
        keyed.setdefault(key, node)
    return keyed
