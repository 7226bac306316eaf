# SPDX-License-Identifier: Apache-2.0
"""Which nodes are not computed here, whatever constants they are given."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.cleanup.arguments import cast_target
from burnish.passes.cleanup.determinism import is_deterministic
from burnish.passes.cleanup.known.arrays import SMALL
from burnish.passes.constant import tensor_of
from burnish.passes.edit import subgraphs

NO_NUMBERS = "its output is not a tensor of numbers"
UNPACKS = "it unpacks a constant that is stored in fewer bits"

# Folding these would undo a quantization: the weight is stored in 8 bits or less on purpose.
_QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# A division by zero in whole numbers ends the runtime's process; NumPy decides alone.
_TRAPS = frozenset({"Div", "Mod"})


def objection_to_computing(node: ir.Node) -> str | None:
    """Say why a node is never computed, though its inputs are known."""
    return _never(node) or _unpacks(node)


def may_trap(node: ir.Node) -> bool:
    """Whether the runtime may end the process where NumPy would raise an error."""
    return node.op_type in _TRAPS and not _is_floating(node)


def _never(node: ir.Node) -> str | None:
    if node.op_type in _QUANTIZATION:
        return "it belongs to a quantized model"
    if subgraphs(node):
        return "it holds a subgraph"
    if not is_deterministic(node):
        return "it is random"
    if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "String")):
        return NO_NUMBERS
    if any(value.dtype == ir.DataType.STRING for value in node.outputs):
        return NO_NUMBERS
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
