# SPDX-License-Identifier: Apache-2.0
"""How operators run on tensors that are stored with their axes in another order.

A permutation p stores a tensor so that axis i of what is stored is axis p[i] of what is meant, as
`perm` of Transpose does. An operator that does the same work in any order of axes is said to move:
its axes are renamed, its constants are stored likewise, and what it makes is stored in an order
that follows. Operators that are not listed here (Conv, pooling, Reshape) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.cleanup.arguments import has_reference, ints_of, is_given
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import as_array, is_constant
from burnish.passes.rule import Builder, NoMatch

Perm = tuple[int, ...]


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
    if forward and handler not in (_elementwise, _concat, _matmul) and value is not node.inputs[0]:
        return NoMatch("it is a parameter of the operator")
    return handler(op, node, perm, forward)


def inverse(perm: Perm) -> Perm:
    """Return the permutation that undoes one."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def is_identity(perm: Perm) -> bool:
    """Whether a permutation leaves every axis where it is."""
    return perm == tuple(range(len(perm)))


def moves_data(value: ir.Value, perm: Perm) -> bool:
    """Whether a Transpose does more than to move axes of size 1."""
    assert value.shape is not None
    long = [axis for axis in perm if value.shape[axis] != 1]
    return long != sorted(long)


def _where(perm: Perm, axes: Iterable[int]) -> list[int]:
    """Return where axes are found in the new order, ascending."""
    return sorted(perm.index(axis % len(perm)) for axis in axes)


def _without(perm: Perm, axes: Iterable[int]) -> Perm:
    """Return the order of what is left of the axes once some are gone."""
    gone = {axis % len(perm) for axis in axes}
    kept = [axis for axis in range(len(perm)) if axis not in gone]
    return tuple(kept.index(axis) for axis in perm if axis not in gone)


def _with(perm: Perm, axes: Iterable[int], rank: int) -> Perm:
    """Return the order of all axes once some that stay in place have been added."""
    added = {axis % rank for axis in axes}
    kept = iter([axis for axis in range(rank) if axis not in added])
    others = list(kept)
    rest = iter(others[axis] for axis in perm)
    return tuple(axis if axis in added else next(rest) for axis in range(rank))


def _changed(orders: dict[int, Perm]) -> dict[int, Perm]:
    return {index: perm for index, perm in orders.items() if not is_identity(perm)}


def _outputs(node: ir.Node, perm: Perm) -> dict[int, Perm]:
    return dict.fromkeys((i for i, value in enumerate(node.outputs) if value.name), perm)


# --- operands ------------------------------------------------------------------------------------


def _operand(value: ir.Value, perm: Perm) -> Perm | np.ndarray | NoMatch | None:
    """Return how an operand that broadcasts to the rank of `perm` is stored; None as it is."""
    if value.shape is None:
        return NoMatch("the rank of an operand is unknown")
    rank, missing = len(value.shape), len(perm) - len(value.shape)
    if missing < 0:
        return NoMatch("an operand has more axes than the result")
    if all(dim == 1 for dim in value.shape):
        return None
    array = as_array(value) if is_constant(value) else None
    if array is not None:
        array = array.reshape((1,) * missing + array.shape).transpose(perm)
        ones = next((i for i, size in enumerate(array.shape) if size != 1), len(perm))
        return array.reshape(array.shape[min(ones, missing) :])
    if is_identity(perm[:missing]):
        return tuple(axis - missing for axis in perm[missing:])
    return NoMatch(f"an operand of {'lower' if rank else 'unknown'} rank would need more axes")


def _on_operands(node: ir.Node, perm: Perm, indices: Iterable[int], **more: Any) -> Move | NoMatch:
    """Move a node whose inputs at `indices` and outputs all have the axes of `perm`."""
    inputs: dict[int, Perm] = {}
    constants: dict[int, np.ndarray] = {}
    for index in indices:
        value = node.inputs[index]
        stored = None if value is None else _operand(value, perm)
        if isinstance(stored, NoMatch):
            return stored
        if isinstance(stored, np.ndarray):
            constants[index] = stored
        elif stored is not None:
            inputs[index] = stored
    constants |= more.pop("constants", {})
    return Move(_changed(inputs), _outputs(node, perm), constants=constants, **more)


def _elementwise(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    result = node.outputs[0].shape
    if result is None or len(result) != len(perm):
        return NoMatch("an operand of lower rank would need more axes")
    return _on_operands(node, perm, range(len(node.inputs)))


def _unary(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    return _on_operands(node, perm, [0])


# --- operators along axes ------------------------------------------------------------------------


def _along_axis(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    axis = op.attribute(node, "axis")
    if axis is None:
        return NoMatch("the axis is unknown")
    return _on_operands(node, perm, [0], attributes={"axis": perm.index(axis % len(perm))})


def _concat(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    if any(value.shape is None or len(value.shape) != len(perm) for value in node.inputs if value):
        return NoMatch("the rank of an operand is unknown")
    axis = op.attribute(node, "axis") % len(perm)
    attributes = {"axis": perm.index(axis)}
    return _on_operands(node, perm, range(len(node.inputs)), attributes=attributes)


def _softmax(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    last = len(perm) - 1
    axis = op.attribute(node, "axis") % len(perm)
    moved = perm.index(axis)
    if op.opset_imports.get("", 1) < 13 and not axis == moved == last:
        return NoMatch("before opset 13 it is over all axes behind one")
    # The runtime's kernel transposes to the last axis and back.
    copies = (0 if axis == last else 2, 0 if moved == last else 2)
    return _on_operands(node, perm, [0], attributes={"axis": moved}, copies=copies)


def _quantize(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    scale = node.inputs[1]
    if "block_size" in node.attributes and op.attribute(node, "block_size"):
        return NoMatch("its scales are by blocks")
    if scale is None or scale.shape is None:
        return NoMatch("the rank of an operand is unknown")
    if all(dim == 1 for dim in scale.shape):
        return _unary(op, node, perm, forward)
    return _along_axis(op, node, perm, forward)


def _slice(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    axes = ints_of(node, "axes", 3)
    if axes is None and not is_given(node, "axes", 3):
        starts = ints_of(node, "starts", 1)
        axes = None if starts is None else tuple(range(len(starts)))
    if axes is None:
        return NoMatch("the axes are not constant")
    moved = [perm.index(axis % len(perm)) for axis in axes]
    if "starts" in node.attributes:
        return _on_operands(node, perm, [0], attributes={"axes": moved})
    starts_in = node.inputs[1]
    if starts_in is None or starts_in.dtype is None:
        return NoMatch("the type of the starts is not known")
    # All numbers of a Slice are of one integer type.
    return _on_operands(node, perm, [0], constants={3: np.array(moved, starts_in.dtype.numpy())})


def _pad(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    if is_given(node, "axes", 3):
        axes = ints_of(node, "axes", 3)
        if axes is None:
            return NoMatch("the axes are not constant")
        moved = np.array([perm.index(axis % len(perm)) for axis in axes], dtype=np.int64)
        return _on_operands(node, perm, [0], constants={3: moved})
    pads = ints_of(node, "pads", 1)
    if pads is None:
        return NoMatch("the padding is not constant")
    ordered = np.array(pads, dtype=np.int64).reshape(2, -1)[:, perm].reshape(-1)
    if "pads" in node.attributes:
        return _on_operands(node, perm, [0], attributes={"pads": ordered.tolist()})
    return _on_operands(node, perm, [0], constants={1: ordered})


def _reduce(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    one_axis = node.op_type in ("ArgMax", "ArgMin")
    axes = (op.attribute(node, "axis"),) if one_axis else ints_of(node, "axes", 1)
    if axes is None and is_given(node, "axes", 1):
        return NoMatch("the axes are not constant")
    if not axes:
        if not one_axis and op.attribute(node, "noop_with_empty_axes"):
            return _unary(op, node, perm, forward)
        return Move({0: perm}, {}) if forward else NoMatch("its output has no axes")
    moved, keeps = _where(perm, axes), bool(op.attribute(node, "keepdims"))
    if not keeps and not forward:
        return NoMatch("it removes axes")
    after = perm if keeps else _without(perm, axes)
    outputs = _changed(_outputs(node, after))
    if one_axis:
        return Move({0: perm}, outputs, attributes={"axis": moved[0]})
    if "axes" in node.attributes:
        return Move({0: perm}, outputs, attributes={"axes": moved})
    return Move({0: perm}, outputs, constants={1: np.array(moved, dtype=np.int64)})


def _gather(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    indices = node.inputs[1]
    if indices is None or indices.shape is None or len(indices.shape) > 1:
        return NoMatch("the indices have several axes")
    axis = op.attribute(node, "axis") % len(perm)
    attributes = {"axis": perm.index(axis)}
    if len(indices.shape) == 1:
        return _on_operands(node, perm, [0], attributes=attributes)
    if not forward:
        return NoMatch("it removes axes")
    return Move({0: perm}, _changed({0: _without(perm, [axis])}), attributes=attributes)


def _squeeze(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    axes, data, result = ints_of(node, "axes", 1), node.inputs[0], node.outputs[0]
    if axes is None or data is None or data.shape is None or result.shape is None:
        return NoMatch("the axes are not constant, or the rank is unknown")
    narrows = node.op_type == "Squeeze"
    rank = max(len(data.shape), len(result.shape))
    if narrows == forward:  # `perm` is of the tensor with more axes
        moved, wide, narrow = _where(perm, axes), perm, _without(perm, axes)
    else:
        moved, wide, narrow = sorted(axis % rank for axis in axes), _with(perm, axes, rank), perm
    before, after = (wide, narrow) if narrows else (narrow, wide)
    orders = _changed({0: before}), _changed({0: after})
    if "axes" in node.attributes:
        return Move(*orders, attributes={"axes": moved})
    return Move(*orders, constants={1: np.array(moved, dtype=np.int64)})


def _resize(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    rank, data, result = len(perm), node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or result.shape is None or len(node.inputs) < 2:
        return NoMatch("the rank of an operand is unknown")
    pairs = enumerate(zip(data.shape.dims, result.shape.dims, strict=True))
    scaled = [axis for axis, (before, after) in pairs if not same_dim(before, after)]
    if any(perm.index(axis) < rank - 2 for axis in scaled):
        return NoMatch("the runtime resizes any but the last two axes slowly")
    roi = node.inputs[1]
    if roi is not None and not (roi.shape is not None and 0 in roi.shape.dims):
        return NoMatch("it crops")
    axes = op.attribute(node, "axes") if "axes" in node.attributes else None
    if axes:
        moved = [perm.index(axis % rank) for axis in axes]
        return _on_operands(node, perm, [0], attributes={"axes": moved})
    given = {i: value for i, value in enumerate(node.inputs) if i > 1 and not _is_empty(value)}
    arrays = {i: array for i, value in given.items() if (array := as_array(value)) is not None}
    return _on_operands(
        node,
        perm,
        [0],
        constants={index: array[list(perm)] for index, array in arrays.items()},
        gathered=dict.fromkeys(given.keys() - arrays.keys(), perm),
    )


def _is_empty(value: ir.Value | None) -> bool:
    return value is None or (value.shape is not None and 0 in value.shape.dims)


# --- operators on the last axes ------------------------------------------------------------------


def _matmul(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    left, right = node.inputs
    rank = len(perm)
    if any(value is None or value.shape is None for value in (left, right, *node.outputs)):
        return NoMatch("the rank of an operand is unknown")
    ranks = [len(v.shape) for v in (left, right, node.outputs[0]) if v is not None and v.shape]
    if ranks == [rank, 2, rank] and perm[-1] == rank - 1:
        return Move({0: perm}, {0: perm})
    if ranks == [rank] * 3 and perm[-2:] == (rank - 2, rank - 1):
        return _on_operands(node, perm, [0, 1])
    return NoMatch("the axes of the product would move")


def _normalization(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    axis = op.attribute(node, "axis") % len(perm)
    if perm[axis:] != tuple(range(axis, len(perm))):
        return NoMatch("the axes it normalizes would move")
    if len(_outputs(node, perm)) != 1:
        return NoMatch("it has several outputs")
    return Move({0: perm}, {0: perm}, attributes={"axis": axis})


def _shape(op: Builder, node: ir.Node, perm: Perm, forward: bool) -> Move | NoMatch:
    if not forward or any(name in node.attributes for name in ("start", "end")):
        return NoMatch("it asks for some of the sizes")
    return Move({0: perm}, {}, result=inverse(perm))


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
    **{("", name): _unary for name in _UNARY},
    **{(MICROSOFT, name): _unary for name in ("QuickGelu", "Gelu")},
    **{("", name): _elementwise for name in _ELEMENTWISE},
    **{("", name): _reduce for name in _REDUCE},
    **{("", name): _along_axis for name in ("Split", "TopK")},
    **{("", name): _softmax for name in ("LogSoftmax", "Softmax")},
    **{
        (domain, name): _quantize
        for name in ("QuantizeLinear", "DequantizeLinear")
        for domain in ("", MICROSOFT)
    },
    **{("", name): _squeeze for name in ("Squeeze", "Unsqueeze")},
    **{("", name): _normalization for name in ("LayerNormalization", "RMSNormalization")},
    ("", "SimplifiedLayerNormalization"): _normalization,
    ("", "Concat"): _concat,
    ("", "Gather"): _gather,
    ("", "MatMul"): _matmul,
    ("", "Pad"): _pad,
    ("", "Resize"): _resize,
    ("", "Shape"): _shape,
    ("", "Slice"): _slice,
}
