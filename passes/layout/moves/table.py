# SPDX-License-Identifier: Apache-2.0
"""Which operators move, and how each does.

An operator that does the same work in any order of axes is said to move: its axes are renamed, its
constants are stored likewise, and what it makes is stored in an order that follows. Operators that
are not listed here (Conv, pooling, Reshape) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.cleanup.arguments import has_reference
from burnish.passes.layout.moves.axes import (
    move_along_axis,
    move_concat,
    move_pad,
    move_quantize,
    move_resize,
    move_slice,
    move_softmax,
)
from burnish.passes.layout.moves.last_axes import move_matmul, move_normalization
from burnish.passes.layout.moves.move import Move
from burnish.passes.layout.moves.operands import move_elementwise, move_unary
from burnish.passes.layout.moves.permutation import Perm
from burnish.passes.layout.moves.ranks import move_gather, move_reduce, move_shape, move_squeeze
from burnish.passes.rule import Builder, NoMatch


def move_of(op: Builder, node: ir.Node, value: ir.Value, perm: Perm) -> Move | NoMatch | None:
    """Say how a node moves if `value`, an input or output of it, is stored in the order `perm`.

    Returns:
        None for operators that never move.
    """
    handler = _HANDLERS.get((node.domain, node.op_type))
    if handler is None:
        return None
    if has_reference(node):
        return NoMatch("an attribute comes from the function's caller")
    forward = value.producer() is not node
    if (
        forward
        and handler not in (move_elementwise, move_concat, move_matmul)
        and value is not node.inputs[0]
    ):
        return NoMatch("it is a parameter of the operator")
    return handler(op, node, perm, forward)


_Handler = Callable[[Builder, ir.Node, Perm, bool], Move | NoMatch]

_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
_ELEMENTWISE = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu"),
    *("Pow", "Sub", "Sum", "Where", "Xor"),
)
_REDUCE = (
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

_HANDLERS: dict[tuple[str, str], _Handler] = {
    **{("", name): move_unary for name in _UNARY},
    **{(MICROSOFT, name): move_unary for name in ("QuickGelu", "Gelu")},
    **{("", name): move_elementwise for name in _ELEMENTWISE},
    **{("", name): move_reduce for name in _REDUCE},
    **{("", name): move_along_axis for name in ("Split", "TopK")},
    **{("", name): move_softmax for name in ("LogSoftmax", "Softmax")},
    **{
        (domain, name): move_quantize
        for name in ("QuantizeLinear", "DequantizeLinear")
        for domain in ("", MICROSOFT)
    },
    **{("", name): move_squeeze for name in ("Squeeze", "Unsqueeze")},
    **{("", name): move_normalization for name in ("LayerNormalization", "RMSNormalization")},
    ("", "SimplifiedLayerNormalization"): move_normalization,
    ("", "Concat"): move_concat,
    ("", "Gather"): move_gather,
    ("", "MatMul"): move_matmul,
    ("", "Pad"): move_pad,
    ("", "Resize"): move_resize,
    ("", "Shape"): move_shape,
    ("", "Slice"): move_slice,
}
