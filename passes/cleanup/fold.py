# SPDX-License-Identifier: Apache-2.0
"""Constant folding: what does not depend on the inputs is computed once, here.

After a sweep down that computes everything that can be (`Known`), a sweep up decides: a result that
someone needs becomes a constant if that pays; if not, its node stays, and what the node takes is
needed in turn.

What does not pay: results that are much larger than what they come from. They would bloat the
file, and the runtime computes them once when it loads the model anyway. Weights are the exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.constants import constant_before, initializer, tensor_of_array
from burnish.passes.cleanup.fills import stands_for_weights
from burnish.passes.cleanup.known.arrays import SMALL
from burnish.passes.cleanup.known.computable import UNPACKS
from burnish.passes.cleanup.known.known import Known
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.edit import names_of, remove_unused, replace_value
from burnish.passes.options import option
from burnish.passes.shapes import infer_shapes, shapes_are_inferred

_FILL_RATIO = 16


@dataclass(frozen=True)
class Fold(Pass):
    """Computes what does not depend on the inputs."""

    name: ClassVar[str] = "fold"
    rule_names: ClassVar[tuple[str, ...]] = ("lift-constant", "fold")
    budget: int = option(
        64 * 2**20, help="most bytes by which a result may exceed the constants it replaces", min=0
    )
    fill: int = option(
        SMALL, help="most bytes of a result computed from less than a sixteenth of that", min=0
    )
    weights: int = option(
        2**30, help="most bytes of all such results together that are used as weights", min=0
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Fold the main graph with its subgraphs, then the functions."""
        for graph in (model.graph, *model.graph.subgraphs()):
            _lift_constants(graph, ctx)
        if not shapes_are_inferred(model):
            # Shapes are inferred faster and further where pads, bounds and targets are constants.
            _Folding(self, model.graph, model.opset_imports, ctx, in_function=False).run()
            infer_shapes(model)
        _Folding(self, model.graph, model.opset_imports, ctx, in_function=False).run()
        for function in model.functions.values():
            _Folding(self, function.graph, function.opset_imports, ctx, in_function=True).run()


def _lift_constants(graph: ir.Graph, ctx: PassContext) -> None:
    """Turn Constant nodes into initializers, which can be shared, streamed and kept outside."""
    for node in graph:
        if node.op_type != "Constant" or node.domain != "":
            continue
        (value,) = node.outputs
        tensor = tensor_of(value)
        if tensor is None or value.is_graph_output() or not value.uses():
            continue
        with ctx.rewrite("lift-constant", node) as go:
            if go:
                new = initializer(tensor)
                replace_value(value, new)
                graph.register_initializer(new)
                remove_unused([node])


class _Folding:
    """Folds one graph and its subgraphs."""

    def __init__(
        self,
        options: Fold,
        graph: ir.Graph,
        opset_imports: Mapping[str, int],
        ctx: PassContext,
        *,
        in_function: bool,
    ) -> None:
        self.options = options
        self.graph = graph
        self.opset_imports = opset_imports
        self.ctx = ctx
        self.in_function = in_function
        self.filled = 0  # bytes of large fills that became weights

    def run(self) -> None:
        if "" not in self.opset_imports:  # what folding puts in place could not be said
            return
        self.known = Known(
            self.graph,
            self.opset_imports,
            budget=self.options.budget,
            weights=self.options.weights,
        )
        self.known.run_deferred(self.wanted())
        for node, reason in self.known.refused.items():
            self.ctx.refuse("fold", node, reason)
        for node in reversed(list(self.known.origins)):
            if node.graph is not None:
                self.place(node)
        if self.filled > self.options.budget:
            self.ctx.warn(
                f"constant fills are used as weights; written out they take up to "
                f"{self.filled / 1e6:.3g} MB"
            )

    def wanted(self) -> list[ir.Value]:
        """Return the values that become constants, as far as sizes tell before they are computed.

        What is on the way to them is not needed, and a chain on a weight, such as its
        standardization, has several values of the size of the weight.
        """
        found: list[ir.Value] = []
        staying: set[ir.Node] = set()
        origins = self.known.origins
        for node in reversed(list(origins)):
            needed = [
                value
                for value in node.outputs
                if value.is_graph_output()
                or any(user not in origins or user in staying for user, _ in value.uses())
            ]
            if not needed:
                continue
            unknown = any(self.known.bytes_of(value) is None for value in needed)
            stays = unknown or node.op_type == "Identity" or self.not_worth_it(node, needed)
            if stays:
                staying.add(node)
            if unknown or not stays:
                found += needed
        return found

    def place(self, node: ir.Node) -> None:
        """Put constants in place of the outputs that are still needed."""
        needed = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if not needed:
            return
        if node.op_type == "Identity":  # `simplify` does it without making a second constant
            return
        for value in needed:
            if self.known.bytes_of(value) is None:
                self.known.result(value)
        reason = self.not_worth_it(node, needed)
        if reason is not None:
            self.ctx.refuse("fold", node, reason)
            return
        with self.ctx.rewrite("fold", node) as go:
            if go:
                self.filled += self.fills(node, needed)
                for value in needed:
                    self.replace(node, value, self.known.result(value))
                remove_unused([node])

    def fills(self, node: ir.Node, needed: list[ir.Value]) -> int:
        """Return the bytes of results that are large and come from little; 0 for all others."""
        size = sum(self.known.bytes_of(value) or 0 for value in needed)
        source = self.known.origins[node].source
        return size if size > max(self.options.fill, _FILL_RATIO * source) else 0

    def not_worth_it(self, node: ir.Node, needed: list[ir.Value]) -> str | None:
        """Say why results, whose sizes are known, stay computed."""
        origin, filled = self.known.origins[node], self.fills(node, needed)
        dtypes = [self.known.dtype_of(value) for value in needed]
        for value, dtype in zip(needed, dtypes, strict=True):
            # An output of the graph needs a node to name it.
            if value.is_graph_output() and not self.ctx.target.runs(
                "Identity", opset=self.opset_imports[""], dtype=dtype
            ):
                return "the target cannot name a constant of this type as an output"
        if filled and any(map(stands_for_weights, needed)):
            if self.filled + filled > self.options.weights:
                return "constant fills used as weights take more than the budget"
            return None
        growth = sum(self.known.bytes_of(value) or 0 for value in needed) - origin.freed
        if growth > self.options.budget:
            return "the result is larger than the budget"
        if filled:
            return "a large array computed from little"
        if growth <= SMALL:
            return None
        if origin.narrowest < 8 * max(dtype.numpy().itemsize for dtype in dtypes):
            return UNPACKS
        return None

    def replace(self, node: ir.Node, value: ir.Value, array: np.ndarray) -> None:
        graph = node.graph
        assert graph is not None
        tensor = tensor_of_array(array)
        if self.in_function:  # functions have no initializers
            replace_value(value, constant_before(node, tensor))
            return
        new = initializer(tensor)
        if value.is_graph_output():
            new.name = names_of(self.graph).fresh(f"{value.name}/const")
            graph.register_initializer(new)
        replace_value(value, new)
        if not new.is_initializer():
            graph.register_initializer(new)
