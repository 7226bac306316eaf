# SPDX-License-Identifier: Apache-2.0
"""Which operators compute in a narrower float type, so that few casts stand between the two.

1. What cannot or must not be narrow is `Region.reasons`: no kernel, sums and powers that overflow,
   arithmetic on positions, constants and values that do not fit.
2. Products gain most and are narrow wherever they may be. All else goes where it saves casts: one
   operator at a time changes sides while that makes the number of casts smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from burnish.passes.constant import tensor_of
from burnish.passes.precision.limits import obstacle
from burnish.passes.precision.signature import Signature, is_float, signature

PRODUCTS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "GRU", "Gemm", "LSTM"}
    | {"MatMul", "MultiHeadAttention", "RNN"}
)
"""Operators that gain so much by a narrow type that casts around them pay."""

DELICATE = frozenset(
    {"Cos", "Cosh", "CumProd", "CumSum", "Exp", "GlobalLpPool", "Log", "LpNormalization", "LpPool"}
    | {"MeanVarianceNormalization", "Pow", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum"}
    | {"ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sin"}
    | {"Sinh", "Softplus", "Tan"}
)
"""Operators whose sums, powers or angles do not survive ten bits and an exponent of five."""

# A MatMul with larger constants has weights: its inputs are data, whatever they came from.
_WEIGHTS = 1 << 10
_ROUNDS = 20

Runs = Callable[[ir.Node, Signature], bool]


@dataclass
class Region:
    """A choice of operators.

    Attributes:
        narrow: Operators that compute in the narrow type, with what of them changes.
        reasons: Why others, which have float32 inputs or outputs, do not.
        narrow_io: Whether inputs and outputs of the graph are of the narrow type.
    """

    narrow_io: bool = False
    narrow: dict[ir.Node, Signature] = field(default_factory=dict)
    reasons: dict[ir.Node, str] = field(default_factory=dict)


def choose(
    model: ir.Model,
    dtype: ir.DataType,
    runs: Runs,
    *,
    excluded: Callable[[ir.Node], bool] = lambda _: False,
    peaks: Mapping[str, float] | None = None,
    limit: float = float("inf"),
    narrow_io: bool = False,
) -> Region:
    """Choose the operators of the main graph that compute in a narrow type.

    Args:
        model: Types are known.
        dtype: FLOAT16 or BFLOAT16.
        runs: Whether the target runs a node in it.
        excluded: Whether the user wants a node to stay.
        peaks: Largest magnitude of values, by name.
        limit: Magnitude from which on a value stays float32.
        narrow_io: Whether inputs and outputs of the graph will be of the narrow type.
    """
    region = Region(narrow_io)
    counted: set[ir.Value] = set()
    for node in model.graph:
        opset = model.opset_imports.get(node.domain, 1)
        found = signature(node, opset, dtype)
        if found is None:
            continue
        if isinstance(found, Signature):
            reason = _reason(node, found, dtype, runs, counted)
            if reason is None and excluded(node):
                reason = "excluded by name"
            if reason is None and _peak(node, peaks or {}) > limit:
                reason = "its values are too large"
            if reason is None:
                region.narrow[node] = found
                continue
            found = reason
        region.reasons[node] = found
    _save_casts(model, region)
    return region


def _reason(
    node: ir.Node, found: Signature, dtype: ir.DataType, runs: Runs, counted: set[ir.Value]
) -> str | None:
    """Return why a node stays float32, or None; notes what is computed from integers alone."""
    if _counts(node, counted):
        counted.update(node.outputs)
        return "it computes with positions or counts"
    if node.op_type in DELICATE:
        return "its results may overflow or lose precision"
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return "its results may overflow or lose precision"
    if not runs(node, found):
        return f"the target has no {dtype.name.lower()} kernel for it"
    for index in found.inputs:
        tensor = tensor_of(node.inputs[index])
        reason = None if tensor is None else obstacle(tensor, dtype)
        if reason is not None:
            return reason
    return None


def _counts(node: ir.Node, counted: set[ir.Value]) -> bool:
    """Whether a node turns integers into float32 or back, or goes on with nothing else."""
    if node.op_type == "Cast":
        (x,), (y,) = node.inputs, node.outputs
        if x is not None and x.dtype is not None and y.dtype is not None:
            pair = {x.dtype, y.dtype} - {ir.DataType.FLOAT}
            return any(not dtype.is_floating_point() for dtype in pair - {ir.DataType.BOOL})
    constants = [tensor_of(value) for value in node.inputs]
    large = any(tensor is not None and tensor.size >= _WEIGHTS for tensor in constants)
    if node.op_type in PRODUCTS and (node.op_type != "MatMul" or large):
        return False
    data = [
        value
        for value, tensor in zip(node.inputs, constants, strict=True)
        if value is not None and tensor is None and is_float(value)
    ]
    return bool(data) and all(value in counted for value in data)


def _peak(node: ir.Node, peaks: Mapping[str, float]) -> float:
    around = (value for value in (*node.inputs, *node.outputs) if value is not None)
    return max((peaks.get(value.name or "", 0.0) for value in around), default=0.0)


def _save_casts(model: ir.Model, region: Region) -> None:
    """Let operators that may be on either side change sides while that saves casts."""
    free = {
        node: found
        for node, found in region.narrow.items()
        if node.op_type not in PRODUCTS or not found.inputs
    }
    # Where it makes no difference, first to float32, which lets whole groups follow, then back.
    for indifferent in (False, True):
        for _ in range(_ROUNDS):
            moved = [node for node in free if _moves(node, free[node], region, indifferent)]
            if not moved:
                break
    for node in free:
        if node not in region.narrow:
            region.reasons[node] = "as a float32 operator it saves casts"
    region.narrow = {node: region.narrow[node] for node in model.graph if node in region.narrow}


def _moves(node: ir.Node, found: Signature, region: Region, indifferent: bool) -> bool:
    """Let an operator change sides if that saves a cast, or costs none; returns whether it did.

    Args:
        node: The operator.
        found: What of it changes.
        region: Changed in place.
        indifferent: Whether it is narrow where both sides need as many casts.
    """
    around = {value for value in (*node.inputs, *node.outputs) if value is not None}
    narrow = node in region.narrow

    def put(where: bool) -> int:
        region.narrow.pop(node, None)
        if where:
            region.narrow[node] = found
        return sum(_casts(value, region) for value in around)

    before, after = put(narrow), put(not narrow)
    if after < before or (after == before and narrow != indifferent):
        return True
    put(narrow)
    return False


def _casts(value: ir.Value, region: Region) -> int:
    """Return how many casts a value needs."""
    if not is_float(value) or tensor_of(value) is not None:
        return 0
    producer = value.producer()
    found = None if producer is None else region.narrow.get(producer)
    made_narrow = found is not None and value.index() in found.outputs
    if value.is_graph_input():
        made_narrow = region.narrow_io and not value.is_initializer()
    wanted = {_wants_narrow(user, index, region) for user, index in value.uses()}
    if value.is_graph_output():
        wanted.add(region.narrow_io)
    return len(wanted - {made_narrow})


def _wants_narrow(user: ir.Node, index: int, region: Region) -> bool:
    found = region.narrow.get(user)
    return found is not None and index in found.inputs
