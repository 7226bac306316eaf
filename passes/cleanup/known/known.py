# SPDX-License-Identifier: Apache-2.0
"""What is known of the values of a graph without running it on any input.

One sweep in topological order. A node whose inputs are known is computed by NumPy, or noted for the
runtime; of a shape computation whose result is not known as a whole, each element is followed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.evaluate import evaluate, predicted_size
from burnish.passes.cleanup.fills import stands_for_weights
from burnish.passes.cleanup.known.arrays import SMALL, array_of, bytes_of, dtype_of
from burnish.passes.cleanup.known.computable import NO_NUMBERS, may_trap, objection_to_computing
from burnish.passes.cleanup.known.deferred import Deferred
from burnish.passes.cleanup.known.origin import Origin, origin_of
from burnish.passes.cleanup.numpy_table import Undecided
from burnish.passes.cleanup.partial.follow import FOLLOWED, follow
from burnish.passes.cleanup.partial.partial import Partial, partial_of
from burnish.passes.constant import tensor_of
from burnish.passes.shapes import infer_node

# Outputs whose size depends on the values, but is bounded by the inputs' size.
_BOUNDED = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "Shape", "Size"})


class Known:
    """What is known of a graph with its subgraphs.

    Attributes:
        arrays: Of values that are computed here; those of constants are not among them, nor are
            results of the runtime that no one asked for.
        partials: Of values of which some elements are known.
        origins: Of the nodes whose outputs are known.
        refused: Why a node is not computed though its inputs are known.
        deferred: Nodes left to the runtime.
    """

    def __init__(
        self, graph: ir.Graph, opset_imports: Mapping[str, int], *, budget: int, weights: int = 0
    ) -> None:
        """Sweep the graph.

        Args:
            graph: The outermost graph.
            opset_imports: Operator set versions.
            budget: Most bytes a result may be larger than its inputs.
            weights: Likewise of a fill that is used as weights.
        """
        self.opset_imports = opset_imports
        self.budget = budget
        self.weights = weights
        self.arrays: dict[ir.Value, np.ndarray] = {}
        self.partials: dict[ir.Value, Partial] = {}
        self.origins: dict[ir.Node, Origin] = {}
        self.refused: dict[ir.Node, str] = {}
        self.deferred = Deferred(opset_imports, self.arrays)
        for node in graph.all_nodes():
            self._look(node)

    def run_deferred(self, wanted: Collection[ir.Value]) -> None:
        """Compute what NumPy did not, and refuse what the runtime does not either.

        Args:
            wanted: Values to know the results of. Those on the way to them, which may be several
                times as large together, are not kept.
        """
        for node in self.deferred.run(wanted):
            del self.origins[node]
            self.refused[node] = "the runtime cannot compute it"

    def result(self, value: ir.Value) -> np.ndarray:
        """Return what a known node computes, now if no one asked for it before."""
        return self.deferred.result(value)

    def bytes_of(self, value: ir.Value) -> int | None:
        """Return the bytes of a known value; None where it has to be computed to say so."""
        return bytes_of(value, self.arrays)

    def dtype_of(self, value: ir.Value) -> ir.DataType:
        """Return the type of a known value whose bytes are known."""
        return dtype_of(value, self.arrays)

    def _look(self, node: ir.Node) -> None:
        if node.op_type == "Constant" or node.domain not in ("", "ai.onnx.ml") or not node.outputs:
            return
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return
        if node.inputs and all(value is None or self._is_known(value) for value in node.inputs):
            reason = objection_to_computing(node) or self._compute(node)
            if reason is None:
                self.origins[node] = origin_of(node, self.origins)
            else:
                self.refused[node] = reason
        elif node.op_type in FOLLOWED and node.domain == "":
            self._follow(node)

    def _is_known(self, value: ir.Value) -> bool:
        if value in self.arrays or value in self.deferred:
            return True
        tensor = tensor_of(value)
        return tensor is not None and tensor.dtype != ir.DataType.STRING

    def _compute(self, node: ir.Node) -> str | None:
        """Compute a node now, or note it for the runtime; returns why not."""
        if any(value in self.deferred for value in node.inputs):
            return self._defer(node)
        inputs = [None if value is None else array_of(value, self.arrays) for value in node.inputs]
        size = predicted_size(node, inputs)
        width = max((item.dtype.itemsize for item in inputs if item is not None), default=1)
        if size is not None and size * width > self._most_bytes(node):
            return "the result is larger than the budget"
        try:
            results = evaluate(node, inputs, self.opset_imports.get("", 1))
        except Undecided:
            return self._defer(node)
        for value, array in zip(node.outputs, results, strict=False):
            if value.dtype is not None and value.dtype.numpy() != array.dtype:
                return self._defer(node)
            self._set(value, array)
        return None

    def _set(self, value: ir.Value, array: np.ndarray) -> None:
        self.arrays[value] = array
        if value.shape is None or value.type is None:  # what comes after it may be sized by it
            value.shape = ir.Shape(array.shape)
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        partial = partial_of(array)
        if partial is not None:
            self.partials[value] = partial

    def _most_bytes(self, node: ir.Node) -> int:
        given = (None if value is None else self.bytes_of(value) for value in node.inputs)
        budget = self.budget
        if node.op_type == "ConstantOfShape" and stands_for_weights(node.outputs[0]):
            budget = max(budget, self.weights)
        return budget + sum(size or 0 for size in given)

    def _defer(self, node: ir.Node) -> str | None:
        """Leave a node to the runtime; returns why not."""
        if may_trap(node):
            return "a whole-number division that may fail"
        for value in node.outputs:
            if not value.name:
                continue
            size = self.bytes_of(value)
            if size is None:
                infer_node(node, self.opset_imports)
                size = self.bytes_of(value)
            if value.dtype == ir.DataType.STRING:
                return NO_NUMBERS
            if size is None and node.op_type not in _BOUNDED:
                return "the size of the result is not known beforehand"
            if size is not None and size > self._most_bytes(node):
                return "the result is larger than the budget"
        self.deferred.add(node)
        return None

    def _follow(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is None or value in self.partials or value in self.deferred:
                continue
            if self._is_known(value) and (self.bytes_of(value) or SMALL) < SMALL:
                partial = partial_of(array_of(value, self.arrays))
                if partial is not None:
                    self.partials[value] = partial
        try:
            found = follow(node, self.partials)
        except (IndexError, KeyError, ValueError):  # a malformed node; the runtime will say
            return
        if found is None:
            return
        (value,) = node.outputs
        self.partials[value] = found
        array = found.array
        if array is not None:
            self.arrays[value] = array
            self.origins[node] = Origin(SMALL, 0, 64)
