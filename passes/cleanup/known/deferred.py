# SPDX-License-Identifier: Apache-2.0
"""Nodes that NumPy does not compute are left to the runtime, which is asked once for many."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.cleanup.evaluate import evaluate_together
from burnish.passes.cleanup.known.arrays import bytes_of
from burnish.passes.constant import tensor_of

_BATCH = 64 * 2**20
"""Bytes of results that a session computes: it holds several times as many on the way."""


class Deferred:
    """Nodes left to the runtime.

    Attributes:
        nodes: Values -> the nodes that compute them.
        arrays: Of values that are computed.
    """

    def __init__(
        self, opset_imports: Mapping[str, int], arrays: dict[ir.Value, np.ndarray]
    ) -> None:
        """Leave none so far.

        Args:
            opset_imports: Operator set versions.
            arrays: Where results are put; those of other nodes may be there.
        """
        self.opset_imports = opset_imports
        self.arrays = arrays
        self.nodes: dict[ir.Value, ir.Node] = {}

    def __contains__(self, value: object) -> bool:
        return value in self.nodes

    def add(self, node: ir.Node) -> None:
        """Leave a node to the runtime; in topological order."""
        self.nodes |= dict.fromkeys(node.outputs, node)

    def run(self, wanted: Collection[ir.Value]) -> list[ir.Node]:
        """Compute values in few sessions; one by one only if the runtime objects.

        Args:
            wanted: Values to know the results of. Those on the way to them, which may be several
                times as large together, are not kept.

        Returns:
            The nodes that cannot be computed.
        """
        missing = [value for value in wanted if value in self.nodes]
        if not missing:
            return []
        try:
            for batch in self._batches(missing):
                self.arrays |= self._with_runtime(self._leading_to(batch), batch)
            return []
        except BurnishError:
            pass
        failed: list[ir.Node] = []
        for node in dict.fromkeys(self.nodes.values()):
            try:
                used = [value for value in node.outputs if value.name]
                self.arrays |= self._with_runtime([node], used)
            except (BurnishError, KeyError):  # or an input could not be computed
                failed.append(node)
        return failed

    def result(self, value: ir.Value) -> np.ndarray:
        """Return what was computed, now if no one asked for it before."""
        if value not in self.arrays:
            self.arrays |= self._with_runtime(self._leading_to([value]), [value])
        return self.arrays[value]

    def _batches(self, values: list[ir.Value]) -> Iterator[list[ir.Value]]:
        """Yield values in turn, so few together that what is on the way to them stays small."""
        batch: list[ir.Value] = []
        size = 0
        for value in values:
            more = bytes_of(value, self.arrays) or 0
            if batch and size + more > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(value)
            size += more
        yield batch

    def _leading_to(self, values: Iterable[ir.Value]) -> list[ir.Node]:
        """Return the deferred nodes to run for values, in topological order."""
        found: set[ir.Node] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            node = None if value in self.arrays else self.nodes.get(value)
            if node is not None and node not in found:
                found.add(node)
                pending += [item for item in node.inputs if item is not None]
        return [node for node in dict.fromkeys(self.nodes.values()) if node in found]

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
