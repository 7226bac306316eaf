# SPDX-License-Identifier: Apache-2.0
"""Constant folding: what does not depend on the inputs is computed once, here.

It works in one sweep down and one sweep up. Down: every node whose inputs are known is computed,
by NumPy or together in one session of the runtime, and shape computations are followed element by
element. Up: a result that someone outside needs becomes a constant if that pays; if not, the node
stays, and its inputs are what is needed.

What does not pay: results that are much larger than what they come from. They would bloat the
file, and the runtime computes them once when it loads the model anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.base import Pass
from burnish.passes.cleanup.constants import constant_before, initializer
from burnish.passes.cleanup.determinism import is_deterministic, subgraphs
from burnish.passes.cleanup.evaluate import (
    Undecided,
    evaluate,
    evaluate_together,
    predicted_size,
)
from burnish.passes.cleanup.partial import FOLLOWED, Partial, follow, partial_of
from burnish.passes.cleanup.static_reshape import expands_to_itself, static_form
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.edit import names_of, remove_unused, replace_value, take_names
from burnish.passes.options import option
from burnish.passes.rule import Builder
from burnish.passes.shapes import infer_node, infer_shapes, shapes_are_inferred

KIB, MIB = 2**10, 2**20
_SMALL = 64 * KIB  # bytes no one counts
_FILL_RATIO = 16

# Folding these would undo a quantization: the weight is stored in 8 bits or less on purpose.
_QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Outputs whose size depends on the values, but is bounded by the inputs' size.
_BOUNDED = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "Shape", "Size"})
# A division by zero in whole numbers ends the runtime's process; NumPy decides alone.
_TRAPS = frozenset({"Div", "Mod"})


@dataclass(frozen=True)
class Fold(Pass):
    """Computes what does not depend on the inputs, and fills in shapes that are known."""

    name: ClassVar[str] = "fold"
    rule_names: ClassVar[tuple[str, ...]] = (
        "lift-constant",
        "fold",
        "static-reshape",
        "static-expand",
    )
    budget: int = option(
        64 * MIB, help="most bytes by which a result may exceed the constants it replaces", min=0
    )
    fill: int = option(
        64 * KIB, help="most bytes of a result computed from less than a sixteenth of that", min=0
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


@dataclass(frozen=True)
class _Origin:
    """What a computed value comes from.

    Attributes:
        source: Bytes of the constants it is computed from.
        freed: Bytes of those that no one else uses.
        narrowest: Fewest bits an element of a constant of some size among them has.
    """

    source: int
    freed: int
    narrowest: int


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
        self.opset = opset_imports.get("", 1)
        self.ctx = ctx
        self.in_function = in_function
        self.arrays: dict[ir.Value, np.ndarray] = {}
        self.partials: dict[ir.Value, Partial] = {}
        self.deferred: dict[ir.Value, ir.Node] = {}
        self.computed: dict[ir.Node, _Origin] = {}

    def run(self) -> None:
        if "" not in self.opset_imports:  # what folding puts in place could not be said
            return
        order = list(self.graph.all_nodes())
        for node in order:
            self.look(node)
        self.compute_deferred()
        for node in reversed(order):
            if node in self.computed and node.graph is not None:
                self.place(node)
        for node in order:
            if node.graph is not None and node.domain == "":
                if node.op_type == "Reshape":
                    self.fill_in_shape(node)
                elif node.op_type == "Expand":
                    self.drop_expand(node)

    # --- down -----------------------------------------------------------------------------------

    def look(self, node: ir.Node) -> None:
        """Compute a node if its inputs are known, or note what is known of its output."""
        if node.op_type == "Constant" or node.domain not in ("", "ai.onnx.ml") or not node.outputs:
            return
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return
        known = [value is None or self.is_known(value) for value in node.inputs]
        if node.inputs and all(known):
            self.try_to_compute(node)
        elif node.domain == "":
            self.follow(node)

    def is_known(self, value: ir.Value) -> bool:
        if value in self.arrays or value in self.deferred:
            return True
        tensor = tensor_of(value)
        return tensor is not None and tensor.dtype != ir.DataType.STRING

    def array(self, value: ir.Value) -> np.ndarray:
        found = self.arrays.get(value)
        if found is None:
            tensor = tensor_of(value)
            assert tensor is not None
            found = tensor.numpy()
        return found

    def try_to_compute(self, node: ir.Node) -> None:
        reason = _never(node)
        if reason is None:
            if any(value in self.deferred for value in node.inputs):
                reason = self.defer(node)
            else:
                reason = self.compute(node)
        if reason is not None:
            self.ctx.refuse("fold", node, reason)
            return
        self.computed[node] = self.origin(node)

    def compute(self, node: ir.Node) -> str | None:
        """Compute a node now; returns why not."""
        inputs = [None if value is None else self.array(value) for value in node.inputs]
        size = predicted_size(node, inputs)
        width = max((item.dtype.itemsize for item in inputs if item is not None), default=1)
        if size is not None and size * width > self.most_bytes(node):
            return "the result is larger than the budget"
        if node.domain == "":
            try:
                results = evaluate(node, inputs, self.opset)
            except Undecided:
                return self.defer(node)
            for value, array in zip(node.outputs, results, strict=False):
                if value.dtype is not None and value.dtype.numpy() != array.dtype:
                    return self.defer(node)
                self.set(value, array)
            return None
        return self.defer(node)

    def most_bytes(self, node: ir.Node) -> int:
        """The most memory a result may take, needed in the end or not."""
        given = (None if value is None else self.size_of(value) for value in node.inputs)
        return self.options.budget + sum(size or 0 for size in given)

    def size_of(self, value: ir.Value) -> int | None:
        """Bytes of a known value, as far as known before it is computed."""
        if value in self.arrays:
            return self.arrays[value].nbytes
        tensor = tensor_of(value)
        if tensor is not None:
            return tensor.nbytes
        if value.shape is None or not value.shape.is_static() or value.dtype is None:
            return None
        return int(np.prod(value.shape.numpy(), dtype=np.float64) * value.dtype.itemsize)

    def defer(self, node: ir.Node) -> str | None:
        """Leave a node to the runtime; returns why not."""
        if node.op_type in _TRAPS and not _is_floating(node):
            return "a whole-number division that may fail"
        for value in node.outputs:
            if not value.name:
                continue
            size = self.size_of(value)
            if size is None:
                infer_node(node, self.opset_imports)
                size = self.size_of(value)
            if size is None and node.op_type not in _BOUNDED:
                return "the size of the result is not known beforehand"
            if size is not None and size > self.most_bytes(node):
                return "the result is larger than the budget"
        self.deferred |= dict.fromkeys(node.outputs, node)
        return None

    def origin(self, node: ir.Node) -> _Origin:
        source, freed, narrowest = 0, 0, 64
        for value in {value: None for value in node.inputs if value is not None}:
            producer = value.producer()
            if producer is not None and producer in self.computed:
                above = self.computed[producer]
            else:
                tensor = tensor_of(value)
                assert tensor is not None
                bits = tensor.dtype.bitwidth if tensor.nbytes > _SMALL else 64
                above = _Origin(tensor.nbytes, tensor.nbytes, bits)
            alone = len(set(value.consumers())) == 1 and not value.is_graph_output()
            source += above.source
            freed += above.freed if alone else 0
            narrowest = min(narrowest, above.narrowest)
        return _Origin(source, freed, narrowest)

    def set(self, value: ir.Value, array: np.ndarray) -> None:
        self.arrays[value] = array
        if value.shape is None or value.type is None:  # what comes after it may be sized by it
            value.shape = ir.Shape(array.shape)
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        partial = partial_of(array)
        if partial is not None:
            self.partials[value] = partial

    def follow(self, node: ir.Node) -> None:
        if node.op_type not in FOLLOWED:
            return
        for value in node.inputs:
            if value is None or value in self.partials or value in self.deferred:
                continue
            if not self.is_known(value):
                continue
            if (self.size_of(value) or _SMALL) < _SMALL:
                self.set(value, self.array(value))
        try:
            found = follow(node, self.partials)
        except (IndexError, KeyError, ValueError):  # a malformed node; the runtime will say
            return
        if found is None:
            return
        (value,) = node.outputs
        array = found.array
        self.partials[value] = found
        if array is not None:
            self.arrays[value] = array
            self.computed[node] = _Origin(_SMALL, 0, 64)

    def compute_deferred(self) -> None:
        """Compute what NumPy did not, all at once; one by one only if the runtime objects."""
        nodes = list(dict.fromkeys(self.deferred.values()))
        if not nodes:
            return
        try:
            self.arrays |= self.with_runtime(nodes)
            return
        except BurnishError:
            pass
        for node in nodes:
            try:
                self.arrays |= self.with_runtime([node])
            except (BurnishError, KeyError):
                del self.computed[node]
                self.ctx.refuse("fold", node, "the runtime cannot compute it")

    def with_runtime(self, nodes: list[ir.Node]) -> dict[ir.Value, np.ndarray]:
        inside = {value for node in nodes for value in node.outputs}
        known: dict[ir.Value, ir.TensorProtocol] = {}
        for node in nodes:
            for value in node.inputs:
                if value is None or value in inside or value in known:
                    continue
                tensor = tensor_of(value)
                known[value] = ir.tensor(self.arrays[value]) if tensor is None else tensor
        return evaluate_together(nodes, known, self.opset_imports)

    # --- up -------------------------------------------------------------------------------------

    def place(self, node: ir.Node) -> None:
        """Put constants in place of the outputs that are still needed."""
        needed = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if not needed:
            return
        if node.op_type == "Identity":  # `simplify` does it without making a second constant
            return
        reason = self.not_worth_it(node, needed)
        if reason is not None:
            self.ctx.refuse("fold", node, reason)
            return
        with self.ctx.rewrite("fold", node) as go:
            if go:
                for value in needed:
                    self.replace(node, value, self.arrays[value])
                remove_unused([node])

    def not_worth_it(self, node: ir.Node, needed: list[ir.Value]) -> str | None:
        origin = self.computed[node]
        results = [self.arrays[value] for value in needed]
        for value, array in zip(needed, results, strict=True):
            # An output of the graph needs a node to name it.
            dtype = ir.DataType.from_numpy(array.dtype)
            if value.is_graph_output() and not self.ctx.target.runs(
                "Identity", opset=self.opset, dtype=dtype
            ):
                return "the target cannot name a constant of this type as an output"
        size = sum(array.nbytes for array in results)
        growth = size - origin.freed
        if growth > self.options.budget:
            return "the result is larger than the budget"
        if size > max(self.options.fill, _FILL_RATIO * origin.source):
            return "a large array computed from little"
        if growth <= _SMALL:
            return None
        if origin.narrowest < 8 * max(array.dtype.itemsize for array in results):
            return "it unpacks a constant that is stored in fewer bits"
        return None

    def replace(self, node: ir.Node, value: ir.Value, array: np.ndarray) -> None:
        graph = node.graph
        assert graph is not None
        tensor = ir.tensor(array)
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

    # --- shapes that are partly known -----------------------------------------------------------

    def fill_in_shape(self, node: ir.Node) -> None:
        """Give a Reshape a constant shape where enough is known of the computed one."""
        if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
            return
        data, partial = node.inputs[0], self.partials.get(node.inputs[1])
        allowzero = node.attributes.get("allowzero")
        if partial is None or partial.array is not None or allowzero is not None:
            return
        form = static_form(data, partial.elements)
        if isinstance(form, str):
            self.ctx.refuse("static-reshape", node, form)
            return
        with self.ctx.rewrite("static-reshape", node) as go:
            if go:
                op = Builder(self.opset_imports)
                new = form.build(op, data)
                self.splice(op, node)
                replace_value(node.outputs[0], new)
                remove_unused([node])

    def drop_expand(self, node: ir.Node) -> None:
        """Remove an Expand to a computed shape that turns out to be the shape there is."""
        data, shape = node.inputs[:2]
        partial = None if shape is None else self.partials.get(shape)
        if data is None or partial is None or partial.array is not None:
            return
        if not expands_to_itself(data, partial.elements):
            self.ctx.refuse("static-expand", node, "the shape may change")
            return
        with self.ctx.rewrite("static-expand", node) as go:
            if go:
                replace_value(node.outputs[0], data)
                remove_unused([node])

    def splice(self, op: Builder, node: ir.Node) -> None:
        """Put what was built in front of a node."""
        graph = node.graph
        assert graph is not None
        take_names(op.nodes, op.initializers, node, self.graph)
        for value in op.initializers:
            if self.in_function:
                assert value.const_value is not None
                constant = constant_before(node, value.const_value)
                constant.name = value.name
                value.replace_all_uses_with(constant)
            else:
                graph.register_initializer(value)
        for new in op.nodes:
            new.metadata_props.update(node.metadata_props)
        graph.insert_before(node, op.nodes)


def _never(node: ir.Node) -> str | None:
    """Say why a node is never folded, whatever its inputs."""
    if node.op_type in _QUANTIZATION:
        return "it belongs to a quantized model"
    if subgraphs(node):
        return "it holds a subgraph"
    if not is_deterministic(node):
        return "it is random"
    if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "String")):
        return "its output is not a tensor of numbers"
    return None


def _is_floating(node: ir.Node) -> bool:
    return any(
        value is not None and value.dtype is not None and value.dtype.is_floating_point()
        for value in node.inputs
    )
