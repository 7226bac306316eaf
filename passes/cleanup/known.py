# SPDX-License-Identifier: Apache-2.0
"""What is known of the values of a graph without running it on any input.

One sweep in topological order. A node whose inputs are known is computed by NumPy, or noted for the
runtime; of a shape computation whose result is not known as a whole, each element is followed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.cleanup.arguments import cast_target
from burnish.passes.cleanup.determinism import is_deterministic
from burnish.passes.cleanup.evaluate import evaluate, evaluate_together, predicted_size
from burnish.passes.cleanup.fills import stands_for_weights
from burnish.passes.cleanup.numpy_table import Undecided
from burnish.passes.cleanup.partial import FOLLOWED, Partial, follow, partial_of
from burnish.passes.constant import tensor_of
from burnish.passes.edit import subgraphs
from burnish.passes.shapes import infer_node

SMALL = 64 * 2**10
"""Bytes no one counts."""

_BATCH = 64 * 2**20
"""Bytes of results that a session computes: it holds several times as many on the way."""

_NO_NUMBERS = "its output is not a tensor of numbers"

UNPACKS = "it unpacks a constant that is stored in fewer bits"

# Folding these would undo a quantization: the weight is stored in 8 bits or less on purpose.
_QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Outputs whose size depends on the values, but is bounded by the inputs' size.
_BOUNDED = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "Shape", "Size"})
# A division by zero in whole numbers ends the runtime's process; NumPy decides alone.
_TRAPS = frozenset({"Div", "Mod"})


@dataclass(frozen=True)
class Origin:
    """What the results of a computed node come from.

    Attributes:
        source: Bytes of the constants they are computed from.
        freed: Bytes of those that no one else uses.
        narrowest: Fewest bits an element has of those constants among them that are not small.
    """

    source: int
    freed: int
    narrowest: int


class Known:
    """What is known of a graph with its subgraphs.

    Attributes:
        arrays: Of values that are computed here; those of constants are not among them, nor are
            results of the runtime that no one asked for.
        partials: Of values of which some elements are known.
        origins: Of the nodes whose outputs are known.
        refused: Why a node is not computed though its inputs are known.
        deferred: Values left to the runtime, with the nodes that compute them.
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
        self.opset = opset_imports.get("", 1)
        self.budget = budget
        self.weights = weights
        self.arrays: dict[ir.Value, np.ndarray] = {}
        self.partials: dict[ir.Value, Partial] = {}
        self.origins: dict[ir.Node, Origin] = {}
        self.refused: dict[ir.Node, str] = {}
        self.deferred: dict[ir.Value, ir.Node] = {}
        for node in graph.all_nodes():
            self._look(node)

    def run_deferred(self, wanted: Collection[ir.Value]) -> None:
        """Compute what NumPy did not, in few sessions; one by one only if the runtime objects.

        Args:
            wanted: Values to know the results of. Those on the way to them, which may be several
                times as large together, are not kept.
        """
        missing = [value for value in wanted if value in self.deferred]
        if not missing:
            return
        try:
            for batch in self._batches(missing):
                self.arrays |= self._with_runtime(self._leading_to(batch), batch)
            return
        except BurnishError:
            pass
        for node in dict.fromkeys(self.deferred.values()):
            try:
                used = [value for value in node.outputs if value.name]
                self.arrays |= self._with_runtime([node], used)
            except (BurnishError, KeyError):  # or an input could not be computed
                del self.origins[node]
                self.refused[node] = "the runtime cannot compute it"

    def _batches(self, values: list[ir.Value]) -> Iterator[list[ir.Value]]:
        """Yield values in turn, so few together that what is on the way to them stays small."""
        batch: list[ir.Value] = []
        size = 0
        for value in values:
            more = self.bytes_of(value) or 0
            if batch and size + more > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(value)
            size += more
        yield batch

    def result(self, value: ir.Value) -> np.ndarray:
        """Return what a known node computes, now if no one asked for it before."""
        if value not in self.arrays:
            self.arrays |= self._with_runtime(self._leading_to([value]), [value])
        return self.arrays[value]

    def _leading_to(self, values: Iterable[ir.Value]) -> list[ir.Node]:
        """Return the deferred nodes to run for values, in topological order."""
        found: set[ir.Node] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            node = None if value in self.arrays else self.deferred.get(value)
            if node is not None and node not in found:
                found.add(node)
                pending += [item for item in node.inputs if item is not None]
        return [node for node in dict.fromkeys(self.deferred.values()) if node in found]

    def _look(self, node: ir.Node) -> None:
        if node.op_type == "Constant" or node.domain not in ("", "ai.onnx.ml") or not node.outputs:
            return
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return
        if node.inputs and all(value is None or self._is_known(value) for value in node.inputs):
            reason = _never(node) or _unpacks(node) or self._compute(node)
            if reason is None:
                self.origins[node] = self._origin(node)
            else:
                self.refused[node] = reason
        elif node.op_type in FOLLOWED and node.domain == "":
            self._follow(node)

    def _is_known(self, value: ir.Value) -> bool:
        if value in self.arrays or value in self.deferred:
            return True
        tensor = tensor_of(value)
        return tensor is not None and tensor.dtype != ir.DataType.STRING

    def _array(self, value: ir.Value) -> np.ndarray:
        found = self.arrays.get(value)
        if found is None:
            tensor = tensor_of(value)
            assert tensor is not None
            found = tensor.numpy()
        return found

    def _compute(self, node: ir.Node) -> str | None:
        """Compute a node now, or note it for the runtime; returns why not."""
        if any(value in self.deferred for value in node.inputs):
            return self._defer(node)
        inputs = [None if value is None else self._array(value) for value in node.inputs]
        size = predicted_size(node, inputs)
        width = max((item.dtype.itemsize for item in inputs if item is not None), default=1)
        if size is not None and size * width > self._most_bytes(node):
            return "the result is larger than the budget"
        try:
            results = evaluate(node, inputs, self.opset)
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

    def bytes_of(self, value: ir.Value) -> int | None:
        """Return the bytes of a known value; None where it has to be computed to say so."""
        if value in self.arrays:
            return self.arrays[value].nbytes
        tensor = tensor_of(value)
        if tensor is not None:
            return tensor.nbytes
        if value.shape is None or not value.shape.is_static():
            return None
        if value.dtype is None or value.dtype == ir.DataType.STRING:
            return None
        return int(np.prod(value.shape.numpy(), dtype=np.float64) * value.dtype.itemsize)

    def dtype_of(self, value: ir.Value) -> ir.DataType:
        """Return the type of a known value whose bytes are known."""
        if value in self.arrays:
            return ir.DataType.from_numpy(self.arrays[value].dtype)
        assert value.dtype is not None
        return value.dtype

    def _defer(self, node: ir.Node) -> str | None:
        """Leave a node to the runtime; returns why not."""
        if node.op_type in _TRAPS and not _is_floating(node):
            return "a whole-number division that may fail"
        for value in node.outputs:
            if not value.name:
                continue
            size = self.bytes_of(value)
            if size is None:
                infer_node(node, self.opset_imports)
                size = self.bytes_of(value)
            if value.dtype == ir.DataType.STRING:
                return _NO_NUMBERS
            if size is None and node.op_type not in _BOUNDED:
                return "the size of the result is not known beforehand"
            if size is not None and size > self._most_bytes(node):
                return "the result is larger than the budget"
        self.deferred |= dict.fromkeys(node.outputs, node)
        return None

    def _origin(self, node: ir.Node) -> Origin:
        source, freed, narrowest = 0, 0, 64
        for value in dict.fromkeys(value for value in node.inputs if value is not None):
            producer = value.producer()
            if producer is not None and producer in self.origins:
                above = self.origins[producer]
            else:
                tensor = tensor_of(value)
                assert tensor is not None
                bits = tensor.dtype.bitwidth if tensor.nbytes > SMALL else 64
                above = Origin(tensor.nbytes, tensor.nbytes, bits)
            alone = len(set(value.consumers())) == 1 and not value.is_graph_output()
            source += above.source
            freed += above.freed if alone else 0
            narrowest = min(narrowest, above.narrowest)
        return Origin(source, freed, narrowest)

    def _follow(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is None or value in self.partials or value in self.deferred:
                continue
            if self._is_known(value) and (self.bytes_of(value) or SMALL) < SMALL:
                partial = partial_of(self._array(value))
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

    def _with_runtime(
        self, nodes: list[ir.Node], wanted: Collection[ir.Value]
    ) -> dict[ir.Value, np.ndarray]:
        inside = {value for node in nodes for value in node.outputs}
        known: dict[ir.Value, ir.TensorProtocol] = {}
        for node in nodes:
            for value in node.inputs:
                if value is None or value in inside or value in known:
                    continue
                tensor = tensor_of(value)
                known[value] = ir.tensor(self.arrays[value]) if tensor is None else tensor
        return evaluate_together(nodes, known, wanted, self.opset_imports)


def _never(node: ir.Node) -> str | None:
    """Say why a node is never computed here, whatever its inputs."""
    if node.op_type in _QUANTIZATION:
        return "it belongs to a quantized model"
    if subgraphs(node):
        return "it holds a subgraph"
    if not is_deterministic(node):
        return "it is random"
    if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "String")):
        return _NO_NUMBERS
    if any(value.dtype == ir.DataType.STRING for value in node.outputs):
        return _NO_NUMBERS
    return None


def _unpacks(node: ir.Node) -> str | None:
    """Refuse early what would hold the weights of a whole model in memory at twice their size."""
    stored = tensor_of(node.inputs[0])
    if node.op_type not in ("Cast", "CastLike") or stored is None or stored.nbytes <= SMALL:
        return None
    target = cast_target(node)
    if target is None or target.bitwidth <= stored.dtype.bitwidth:
        return None
    return UNPACKS


def _is_floating(node: ir.Node) -> bool:
    return any(
        value is not None and value.dtype is not None and value.dtype.is_floating_point()
        for value in node.inputs
    )
