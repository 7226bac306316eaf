# SPDX-License-Identifier: Apache-2.0
"""The structural verifier: is a model well formed? Linear in nodes, reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import onnx_ir as ir

from burnish.passes.context import describe
from burnish.passes.edit import subgraphs


def verify(model: ir.Model) -> list[str]:
    """Return what is wrong with a model, one line each; empty if nothing is.

    Checked, over the main graph, subgraphs and functions: names are unique in their scope, every
    value is defined before it is used (so there are no cycles), outputs are named and defined, an
    initializer has its tensor and agrees with it in dtype and shape, operator sets are imported,
    and operators exist in the imported version of the standard domain, with as many inputs and
    outputs as they take, the attributes they require, and attributes of the types they declare.
    """
    problems: list[str] = []
    _Scope(model.opset_imports, model, problems).graph(model.graph)
    for function in model.functions.values():
        _Scope(function.opset_imports, model, problems).graph(function.graph)
    return problems


class _Scope:
    """Walks graphs that share operator set imports; holds what is visible at the moment."""

    def __init__(self, opsets: Mapping[str, int], model: ir.Model, problems: list[str]) -> None:
        self.opsets = opsets
        self.model = model
        self.problems = problems
        self.defined: set[ir.Value] = set()
        self.names: set[str] = set()

    def graph(self, graph: ir.Graph) -> None:
        # What a subgraph defines is taken back when it ends, so that no set is ever copied.
        added: list[ir.Value] = []
        self.body(graph, added)
        for value in added:
            self.defined.discard(value)
            self.names.discard(value.name or "")

    def body(self, graph: ir.Graph, added: list[ir.Value]) -> None:
        def define(value: ir.Value, what: str) -> None:
            if not value.name or value in self.defined:
                return
            self.defined.add(value)
            if value.name in self.names:
                self.problems.append(f"{what} {value.name!r}: the name is taken")
                return
            self.names.add(value.name)
            added.append(value)

        for value in graph.inputs:
            define(value, "input")
        for value in graph.initializers.values():
            define(value, "initializer")
            self.initializer(value)
        for node in graph:
            label = f"node {describe(node)!r} ({node.op_type})"
            for used in node.inputs:
                if used is not None and used not in self.defined:
                    self.problems.append(f"{label}: input {used.name!r} is used before defined")
            self.operator(node, label)
            for inner in subgraphs(node):
                self.graph(inner)
            for value in node.outputs:
                if value.uses() and not value.name:
                    self.problems.append(f"{label}: an output in use has no name")
                define(value, f"{label}: output")
        for value in graph.outputs:
            if not value.name:
                self.problems.append("an output of the graph has no name")
            elif value not in self.defined:
                self.problems.append(f"output {value.name!r} is never defined")

    def initializer(self, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is None:
            self.problems.append(f"initializer {value.name!r} has no tensor")
            return
        if value.dtype is not None and value.dtype != tensor.dtype:
            self.problems.append(
                f"initializer {value.name!r} is declared {value.dtype} but holds {tensor.dtype}"
            )
        if value.shape is not None and not _fits(value.shape, tensor.shape):
            self.problems.append(
                f"initializer {value.name!r} is declared {value.shape} but holds {tensor.shape}"
            )

    def operator(self, node: ir.Node, label: str) -> None:
        version = self.opsets.get(node.domain)
        if node.op_identifier() in self.model.functions:
            return
        if version is None:
            self.problems.append(f"{label}: operator set {node.domain!r} is not imported")
            return
        if node.domain != "":
            return
        form = _form(node.op_type, version)
        if form is None:
            from burnish.backends.kernels import runtime_knows

            if not runtime_knows(node.op_type, "", opset=version):
                self.problems.append(f"{label}: opset {version} has no such operator")
            return
        fewest, most, outputs, required, types = form
        if not fewest <= len(node.inputs) <= most:
            limit = f"at least {fewest}" if len(node.inputs) < fewest else f"at most {most}"
            self.problems.append(f"{label}: {len(node.inputs)} inputs, where it takes {limit}")
        if len(node.outputs) > outputs:
            self.problems.append(
                f"{label}: {len(node.outputs)} outputs, where it gives at most {outputs}"
            )
        for name in required:
            if name not in node.attributes:
                self.problems.append(f"{label}: attribute {name!r} is missing")
        for name, attribute in node.attributes.items():
            type_ = types.get(name, attribute.type)
            if attribute.type != type_:
                self.problems.append(
                    f"{label}: attribute {name!r} is {attribute.type.name}, not {type_.name}"
                )


def _fits(declared: ir.Shape, held: ir.ShapeProtocol) -> bool:
    """Whether all that is declared of a shape is so; it may leave sizes open."""
    return len(declared) == len(held) and all(
        size == there for size, there in zip(declared, held, strict=True) if isinstance(size, int)
    )


class _Form(NamedTuple):
    """What the schema of a standard operator says of its nodes."""

    fewest: int
    most: int
    outputs: int
    required: tuple[str, ...]
    types: Mapping[str, ir.AttributeType]


@cache
def _form(op_type: str, version: int) -> _Form | None:
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    declared = sorted(schema.attributes.items())
    required = tuple(name for name, item in declared if item.required)
    types = {name: ir.AttributeType[str(item.type).rpartition(".")[2]] for name, item in declared}
    return _Form(schema.min_input, schema.max_input, schema.max_output, required, types)
