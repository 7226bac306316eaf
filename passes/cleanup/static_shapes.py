# SPDX-License-Identifier: Apache-2.0
"""Shape computations that are known well enough to do without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.constants import constant_before
from burnish.passes.cleanup.known.arrays import SMALL
from burnish.passes.cleanup.known.known import Known
from burnish.passes.cleanup.partial.partial import Element
from burnish.passes.cleanup.static_reshape import (
    expands_to_itself,
    static_form,
    swaps_last_axes,
)
from burnish.passes.context import PassContext
from burnish.passes.edit import remove_unused, replace_value, take_names
from burnish.passes.rule import Builder
from burnish.passes.shapes import forget_shapes, infer_shapes


@dataclass(frozen=True)
class StaticShapes(Pass):
    """Replaces computed shapes by constants where enough is known of them."""

    name: ClassVar[str] = "static-shapes"
    rule_names: ClassVar[tuple[str, ...]] = (
        "static-reshape",
        "static-expand",
        "batched-transpose",
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Look at every Reshape and Expand of the main graph, its subgraphs, and functions."""
        infer_shapes(model)
        done = _Shapes(model.graph, model.opset_imports, ctx, in_function=False).run()
        for function in model.functions.values():
            _Shapes(function.graph, function.opset_imports, ctx, in_function=True).run()
        if done:
            forget_shapes(model)  # more of them can be inferred now


class _Shapes:
    """Rewrites one graph and its subgraphs."""

    def __init__(
        self,
        graph: ir.Graph,
        opset_imports: Mapping[str, int],
        ctx: PassContext,
        *,
        in_function: bool,
    ) -> None:
        self.graph = graph
        self.opset_imports = opset_imports
        self.ctx = ctx
        self.in_function = in_function
        self.done = 0

    def run(self) -> int:
        """Rewrite; returns how often."""
        if "" not in self.opset_imports:
            return 0
        self.known = Known(self.graph, self.opset_imports, budget=SMALL)
        for node in list(self.graph.all_nodes()):
            if node.graph is None or node.domain != "" or len(node.inputs) < 2:
                continue
            if node.op_type == "Reshape" and not self.transpose(node):
                self.reshape(node)
            elif node.op_type == "Expand":
                self.expand(node)
        return self.done

    def target(self, node: ir.Node) -> tuple[Element, ...] | None:
        """Return what is known of the shape a node is given."""
        shape = node.inputs[1]
        partial = None if shape is None else self.known.partials.get(shape)
        return None if partial is None else partial.elements

    def reshape(self, node: ir.Node) -> None:
        data, target = node.inputs[0], self.target(node)
        if data is None or target is None or _is_constant(target) or _copies_nothing(node):
            return
        form = static_form(data, target)
        if isinstance(form, str):
            self.ctx.refuse("static-reshape", node, form)
            return
        with self.ctx.rewrite("static-reshape", node) as go:
            if go:
                op = Builder(dict(self.opset_imports))
                self.splice(op, node, form.build(op, data))

    def expand(self, node: ir.Node) -> None:
        data, target = node.inputs[0], self.target(node)
        if data is None or target is None or _is_constant(target):
            return
        if not expands_to_itself(data, target):
            self.ctx.refuse("static-expand", node, "the shape may change")
            return
        with self.ctx.rewrite("static-expand", node) as go:
            if go:
                self.done += 1
                replace_value(node.outputs[0], data)
                remove_unused([node])

    def transpose(self, node: ir.Node) -> bool:
        """Undo the detour by which exporters swap the last two axes of a batch of matrices.

        Reshape to three axes, Transpose, and Reshape back is one Transpose.
        """
        swap = _only_use(node, 0, "Transpose")
        flat = None if swap is None else _only_use(swap, 0, "Reshape")
        if swap is None or flat is None or flat.inputs[0] is None:
            return False
        data = flat.inputs[0]
        there, back = self.target(flat), self.target(node)
        if there is None or back is None or data.shape is None:
            return False
        if ints_of(swap, "perm", 1) != (0, 2, 1) or not swaps_last_axes(data, there, back):
            return False
        with self.ctx.rewrite("batched-transpose", node) as go:
            if go:
                op = Builder(dict(self.opset_imports))
                rank = len(data.shape)
                perm = [*range(rank - 2), rank - 1, rank - 2]
                self.splice(op, node, op.Transpose(data, perm=perm))
                return True
        return False

    def splice(self, op: Builder, node: ir.Node, new: ir.Value) -> None:
        """Put what was built in the place of a node."""
        graph = node.graph
        assert graph is not None
        self.done += 1
        take_names(op.nodes, op.initializers, node, self.graph)
        for value in op.initializers:
            if self.in_function:
                assert value.const_value is not None
                constant = constant_before(node, value.const_value)
                constant.name = value.name
                value.replace_all_uses_with(constant)
            else:
                graph.register_initializer(value)
        for made in op.nodes:
            made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, op.nodes)
        replace_value(node.outputs[0], new)
        remove_unused([node])


def _is_constant(target: tuple[Element, ...]) -> bool:
    return all(isinstance(element, int) for element in target)


def _copies_nothing(reshape: ir.Node) -> bool:
    """Whether a 0 in the target means a size of 0."""
    allowzero = reshape.attributes.get("allowzero")
    return allowzero is not None and (allowzero.is_ref() or allowzero.as_int() != 0)


def _only_use(node: ir.Node, index: int, op_type: str) -> ir.Node | None:
    """Return the node of some operator that computes an input for this node alone."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.op_type != op_type or producer.domain != "":
        return None
    if len(value.uses()) != 1 or value.is_graph_output() or producer.graph is not node.graph:
        return None
    return producer
