# SPDX-License-Identifier: Apache-2.0
"""Common subexpressions: what is computed twice from the same values is computed once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.determinism import is_deterministic
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value, subgraphs
from burnish.passes.pattern import COMMUTATIVE

# Tensors in attributes are compared by content up to this size (bytes), beyond it by identity.
_COMPARED = 1024

_Table = ChainMap[Hashable, ir.Node]


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merges nodes with the same operator, attributes and inputs."""

    name: ClassVar[str] = "cse"
    rule_names: ClassVar[tuple[str, ...]] = ("cse",)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Walk every graph once; an inner graph also sees what was computed before it outside."""
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            _merge(graph, ChainMap(), ctx)


def _merge(graph: ir.Graph, table: _Table, ctx: PassContext) -> None:
    for node in graph:
        key = _key(node)
        if key is not None:
            first = table.setdefault(key, node)
            if first is not node and _replace(node, first, ctx):
                continue
        for inner in subgraphs(node):
            _merge(inner, table.new_child(), ctx)


def _replace(node: ir.Node, first: ir.Node, ctx: PassContext) -> bool:
    """Let the users of `node` use `first`; returns whether it was done."""
    pairs = list(zip(node.outputs, first.outputs, strict=True))
    if node.op_type in ("Identity", "Constant") and any(old.is_graph_output() for old, _ in pairs):
        return False  # it would take an Identity to name the output: nothing is gained
    if any(not new.name and old.name for old, new in pairs):
        ctx.refuse("cse", node, "the first one lacks an output")
        return False
    with ctx.rewrite("cse", node) as go:
        if go:
            for old, new in pairs:
                if old.name:
                    replace_value(old, new)
            remove_unused([node])
            return True
    return False


def _key(node: ir.Node) -> Hashable | None:
    """Return what makes two nodes compute the same, or None if a node is unlike any other."""
    if not node.outputs or not is_deterministic(node):
        return None
    attributes = []
    for name in sorted(node.attributes):
        part = _attribute_key(node.attributes[name])
        if part is None:
            return None
        attributes.append((name, part))
    inputs = [0 if value is None else id(value) for value in node.inputs]
    while inputs and not inputs[-1]:  # a missing input at the end may be written or not
        inputs.pop()
    if node.op_type in COMMUTATIVE and node.domain == "" and len(inputs) == 2:
        inputs.sort()
    return (node.op_identifier(), tuple(inputs), tuple(attributes), len(node.outputs))


def _attribute_key(attribute: ir.Attr) -> Hashable | None:
    kind = attribute.type
    if attribute.is_ref():
        return ("ref", attribute.ref_attr_name)
    if kind == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.nbytes > _COMPARED or tensor.dtype == ir.DataType.STRING:
            return ("tensor", id(tensor))
        return ("tensor", tensor.dtype, tuple(tensor.shape), tensor.tobytes())
    if kind in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return (kind, repr(attribute.value))  # tells -0.0 from 0.0, and finds NaN equal to itself
    if kind in (ir.AttributeType.INT, ir.AttributeType.STRING):
        return (kind, attribute.value)
    if kind in (ir.AttributeType.INTS, ir.AttributeType.STRINGS):
        return (kind, tuple(attribute.value))
    return None
