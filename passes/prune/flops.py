# SPDX-License-Identifier: Apache-2.0
"""What a model costs: floating-point operations and parameters, also of one that is not cut yet.

A multiplication and an addition count as two operations. Counted are sums of products: Conv,
ConvTranspose, Gemm, MatMul, Einsum and attention; all else is of lower order. Each is a product of
sizes of dimensions, so the cost after a cut follows from the sizes after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from math import prod

import onnx_ir as ir

from burnish.passes.constant import is_constant, tensor_of
from burnish.passes.prune.coupling import Dim, sizes_of

Term = tuple[Dim, ...]
"""Dimensions of values, whose sizes are multiplied."""

SizeOf = Callable[[Dim], int]

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
)


def terms(node: ir.Node) -> list[Term]:
    """Return the multiplications of a node, as products of sizes; none if it is not counted."""
    values = [None if sizes_of(value) is None else value for value in node.inputs]
    result = node.outputs[0] if node.outputs and sizes_of(node.outputs[0]) is not None else None
    if result is None or len(values) < 2 or values[0] is None or values[1] is None:
        return []
    left, right = values[0], values[1]
    match node.domain, node.op_type:
        case ("", "Conv" | "ConvInteger") | ("com.microsoft", "FusedConv"):
            return [(*_dims(result), *_dims(right)[1:])]
        case "", "ConvTranspose":
            return [(*_dims(left), *_dims(right)[1:])]
        case ("", "MatMul" | "MatMulInteger") | ("com.microsoft", "MatMulNBits" | "FusedMatMul"):
            return [(*_dims(result), _dims(left)[-1])] if _dims(left) else []
        case "", "Gemm":
            summed = 0 if node.attributes.get_int("transA", 0) else 1
            return [(*_dims(result), (left, summed))]
        case "", "Einsum":
            return _einsum(node, left, right)
        case ("", "Attention") | ("com.microsoft", "MultiHeadAttention"):
            return _attention(node, left, right)
    return []


def _dims(value: ir.Value) -> list[Dim]:
    return [(value, axis) for axis in range(len(sizes_of(value) or ()))]


def _einsum(node: ir.Node, left: ir.Value, right: ir.Value) -> list[Term]:
    equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    parts = equation.partition("->")[0].split(",")
    if len(parts) != 2 or "." in equation:
        return []
    labels: dict[str, Dim] = {}
    for value, part in zip((left, right), parts, strict=True):
        labels.update(zip(part, _dims(value), strict=True))
    return [tuple(labels.values())]


def _attention(node: ir.Node, query: ir.Value, key: ir.Value) -> list[Term]:
    """Scores and mixing, of queries [B, H, S, D] or [B, S, H D]: both take B H S T D."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    dims, behind = _dims(query), _dims(key)
    if value is None or len(dims) < 3 or len(behind) != len(dims):
        return []
    return [(*dims, behind[-2]), (*_dims(node.outputs[0]), behind[-2])]


class Sizes:
    """Sizes of a model's dimensions as numbers.

    Args:
        model: With shapes inferred.
        dims: Sizes by name; others are as for random inputs: `BATCH` on a first axis, else
            `EXTENT`.
    """

    def __init__(self, model: ir.Model, dims: Mapping[str, int] | None = None) -> None:
        from burnish.backends.feeds import BATCH, EXTENT, input_specs, symbol_sizes

        self.bindings = {**symbol_sizes(input_specs(model), {}), **(dims or {})}
        self._known: dict[str, int | None] = {}
        self._others = EXTENT, BATCH

    def __call__(self, dim: Dim) -> int:
        """Return the size of a dimension, as of an input if it cannot be computed from those."""
        value, axis = dim
        assert isinstance(value, ir.Value)
        size = (sizes_of(value) or ())[axis]
        if isinstance(size, int):
            return size
        if size is not None and size not in self._known:
            self._known[size] = self._evaluate(size)
        found = None if size is None else self._known[size]
        return self._others[axis == 0] if found is None else found

    def _evaluate(self, size: str) -> int | None:
        if size in self.bindings:
            return self.bindings[size]
        with contextlib.suppress(Exception):  # a name nothing is known of
            found = ir.SymbolicDim(size).evaluate(self.bindings)
            if isinstance(found, int):
                return max(found, 1)
        return None


def flops(node: ir.Node, size: SizeOf) -> int:
    """Return the floating-point operations of a node."""
    return sum(2 * prod(map(size, term)) for term in terms(node))


def model_flops(model: ir.Model) -> Iterator[Term]:
    """Yield the products of the main graph; twice their sum is what the model computes."""
    for node in model.graph:
        yield from terms(node)


def model_parameters(model: ir.Model) -> Iterator[Term]:
    """Yield the products whose sum is the number of elements of floating-point constants."""
    constants = [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
    for value in (*model.graph.initializers.values(), *constants):
        tensor = tensor_of(value)
        if tensor is not None and tensor.dtype in _FLOATS and is_constant(value):
            yield tuple((value, axis) for axis in range(len(tensor.shape)))
