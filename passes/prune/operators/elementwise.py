# SPDX-License-Identifier: Apache-2.0
"""Operators that keep apart the indices of some axes: elementwise, norms, pools, reductions."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.prune.coupling import Couplings, Unclear
from burnish.passes.prune.operators.rule import (
    MICROSOFT,
    Rules,
    apart_from,
    broadcast,
    dropped,
    entering,
    integers,
    required,
)

RULES: Rules = {}
_rule = entering(RULES)


@_rule(
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitwiseAnd"),
    *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos"),
    *("Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"),
    *("GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
    *("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh"),
    *("ThresholdedRelu", "Where", "Xor"),
)
@_rule("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain=MICROSOFT)
def _elementwise(couplings: Couplings, node: ir.Node) -> None:
    """Every axis corresponds, with broadcasting."""
    for result in node.outputs:
        if result.name:
            broadcast(couplings, node.inputs, result)


@_rule("Constant")
def _nothing(couplings: Couplings, node: ir.Node) -> None:
    """A constant can be cut along every axis."""
    for dim in couplings.dims(node.outputs[0]):
        couplings.same(dim, dim)


@_rule("Shape")
def _shape(couplings: Couplings, node: ir.Node) -> None:
    """Sizes change with what is cut; `sizes` says where that matters."""
    for dim in couplings.dims(required(node, 0)):
        couplings.same(dim, dim)


@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(couplings: Couplings, node: ir.Node) -> None:
    opset = node.version or (node.graph.opset_imports.get("", 13) if node.graph else 13)
    if opset < 13:
        first = node.attributes.get_int("axis", 1) or 0
        rank = len(couplings.shape(required(node, 0)))
        apart_from(couplings, node, set(range(first % rank, rank)))
    else:
        apart_from(couplings, node, {node.attributes.get_int("axis", -1) or 0})


@_rule("ArgMax", "ArgMin", "TopK")
def _chosen(couplings: Couplings, node: ir.Node) -> None:
    default = -1 if node.op_type == "TopK" else 0
    axis = node.attributes.get_int("axis", default)
    assert axis is not None
    if node.attributes.get_int("keepdims", 1):
        apart_from(couplings, node, {axis})
    else:
        dropped(couplings, node, [axis])


@_rule("CumSum")
def _cumulated(couplings: Couplings, node: ir.Node) -> None:
    apart_from(couplings, node, set(integers(node, 1) or ()))


@_rule("LpNormalization")
def _normalized(couplings: Couplings, node: ir.Node) -> None:
    apart_from(couplings, node, {node.attributes.get_int("axis", -1) or 0})


@_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(couplings: Couplings, node: ir.Node) -> None:
    rank = len(couplings.shape(required(node, 0)))
    first = (node.attributes.get_int("axis", -1) or 0) % rank
    apart_from(couplings, node, set(range(first, rank)))


@_rule(
    *("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"),
    *("LRN", "MaxRoiPool", "MaxUnpool", "AffineGrid", "GridSample"),
)
def _pool(couplings: Couplings, node: ir.Node) -> None:
    """Batches and channels are kept apart; LRN sums over neighbouring channels."""
    data = required(node, 0)
    for result in node.outputs:
        if result.name:
            couplings.same((data, 0), (result, 0))
            if node.op_type not in ("LRN", "AffineGrid"):
                couplings.same((data, 1), (result, 1))


@_rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
def _reduce(couplings: Couplings, node: ir.Node) -> None:
    rank = len(couplings.shape(required(node, 0)))
    axes = integers(node, 1, "axes")
    none_is_none = node.attributes.get_int("noop_with_empty_axes", 0)
    if not axes:
        axes = [] if none_is_none else list(range(rank))
    if node.attributes.get_int("keepdims", 1):
        apart_from(couplings, node, set(axes))
    else:
        dropped(couplings, node, axes)


@_rule("BatchNormalization", "InstanceNormalization")
def _batch_norm(couplings: Couplings, node: ir.Node) -> None:
    data = required(node, 0)
    couplings.same((data, 0), (node.outputs[0], 0))
    couplings.same((data, 1), (node.outputs[0], 1))
    for parameter in node.inputs[1:]:
        if parameter is not None:
            couplings.same((parameter, 0), (data, 1))


@_rule("GroupNormalization")
def _group_norm(couplings: Couplings, node: ir.Node) -> None:
    """Statistics are those of a group: whole groups can go."""
    data, result = required(node, 0), node.outputs[0]
    groups = node.attributes.get_int("num_groups", 0) or 0
    channels = couplings.size((data, 1))
    if not isinstance(channels, int) or not groups:
        raise Unclear("the number of channels is not known")
    couplings.same((data, 0), (result, 0))
    couplings.same((data, 1), (result, 1))
    group = couplings.stand_in("groups", groups)
    couplings.blocks((data, 1), group)
    for parameter in node.inputs[1:]:
        if parameter is not None and couplings.size((parameter, 0)) == channels:
            couplings.same((parameter, 0), (data, 1))  # opset 21
        elif parameter is not None and groups > 1:
            couplings.same((parameter, 0), group)  # opset 18
            couplings.mention((parameter, 0))
