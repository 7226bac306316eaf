# SPDX-License-Identifier: Apache-2.0
"""How an operator runs on tensors that are stored with their axes in another order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.layout.moves.permutation import Perm
from burnish.passes.rule import Builder


@dataclass(frozen=True)
class Move:
    """How a node runs on permuted tensors.

    Attributes:
        inputs: Index of an input -> the order it is then stored in; others stay as they are.
        outputs: Likewise of its outputs.
        attributes: Those that change.
        constants: Index of an input -> the constant that takes its place.
        gathered: Index of an input, one number an axis -> the order its numbers are taken in.
        result: The order in which the numbers of its output, one an axis, have to be taken.
        copies: How often the runtime copies its input to run it, before and after.
    """

    inputs: dict[int, Perm]
    outputs: dict[int, Perm]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    gathered: dict[int, Perm] = field(default_factory=dict)
    result: Perm | None = None
    copies: tuple[int, int] = (0, 0)

    @property
    def calls(self) -> int:
        """Number of operators it needs beside the node."""
        return len(self.gathered) + (self.result is not None)

    def build(self, op: Builder, node: ir.Node, inputs: dict[int, ir.Value]) -> Any:
        """Build the node on `inputs`, which has those of its inputs that are permuted."""
        count = max(len(node.inputs), *(index + 1 for index in (-1, *self.constants)))
        given: list[Any] = [*node.inputs, *[None] * (count - len(node.inputs))]
        for index, value in inputs.items():
            given[index] = value
        for index, array in self.constants.items():
            given[index] = op.constant(np.ascontiguousarray(array))
        for index, order in self.gathered.items():
            given[index] = op.Gather(given[index], np.array(order, dtype=np.int64), axis=0)
        made = op.like(node, *given, **self.attributes)
        if self.result is None:
            return made
        return op.Gather(made, np.array(self.result, dtype=np.int64), axis=0)
