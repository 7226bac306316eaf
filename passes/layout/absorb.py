# SPDX-License-Identifier: Apache-2.0
"""Operators that take in the Transpose beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import has_reference
from burnish.passes.cleanup.dims import target_of
from burnish.passes.constant import tensor_of
from burnish.passes.edit import use_count
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.layout.moves.permutation import moves_data
from burnish.passes.pattern import const, optional
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(5, None))
def transpose_to_reshape(op: Any, x: Any) -> Any:
    """Transpose(x) -> Reshape(x) where only axes of size 1 move."""
    return op.Transpose(x, _bind="node")


@transpose_to_reshape.rewrite
def _(op: Builder, x: Operand, node: ir.Node) -> Replacement:
    if x.rank is None or has_reference(node):
        return NoMatch("the axes are not known")
    perm = op.attribute(node, "perm") or tuple(reversed(range(x.rank)))
    if moves_data(x.value, tuple(perm)):
        return NoMatch("it moves data")
    target = target_of(x.value, node.outputs[0])
    if isinstance(target, str):
        return NoMatch(target)
    return op.Reshape(x, np.array(target, dtype=np.int64))


def _swaps(perm: Any) -> bool:
    """Whether a Transpose of a matrix is one; without `perm` it is."""
    return perm is None or tuple(perm) == (1, 0)


@rule(opset=(11, None))
def transpose_into_gemm(op: Any, a: Any, b: Any, c: Any = optional()) -> Any:
    """Gemm(Transpose(a), b) -> Gemm<transA>(a, b), and likewise for b."""
    return op.Gemm(op.Transpose(a, perm=_swaps), b, c, _bind="gemm")


@transpose_into_gemm.also
def _(op: Any, a: Any, b: Any, c: Any = optional()) -> Any:
    return op.Gemm(a, op.Transpose(b, perm=_swaps, _bind="second"), c, _bind="gemm")


@transpose_into_gemm.rewrite
def _(
    op: Builder, a: Operand, b: Operand, c: Operand | None, gemm: ir.Node, second: ir.Node | None
) -> Replacement:
    side = "transA" if second is None else "transB"
    return op.like(gemm, a, b, c, **{side: 1 - op.attribute(gemm, side)})


@rule(opset=(11, None))
def transpose_into_matmul(op: Any, a: Any, b: Any) -> Any:
    """MatMul(Transpose(a), b) of matrices -> Gemm<transA>(a, b), and likewise for b."""
    return op.MatMul(op.Transpose(a, perm=_swaps, _bind="first"), b)


@transpose_into_matmul.also
def _(op: Any, a: Any, b: Any) -> Any:
    return op.MatMul(a, op.Transpose(b, perm=_swaps, _bind="second"))


@transpose_into_matmul.rewrite
def _(
    op: Builder, a: Operand, b: Operand, first: ir.Node | None, second: ir.Node | None
) -> Replacement:
    if a.rank != 2 or b.rank != 2:
        return NoMatch("Gemm multiplies matrices only")
    if a.dtype not in FLOATS:
        return NoMatch("integers are not fused")
    given = {name: 1 for name, node in (("transA", first), ("transB", second)) if node}
    return op.Gemm(a, b, **given)


def _flat(op: Any, x: Any) -> Any:
    moved = op.Transpose(x, _bind="transpose")
    return op.one_of("Flatten", "Reshape")(moved, _more=True, _bind="flatten")


@rule(opset=(11, None))
def transpose_into_weights(op: Any, x: Any, w: Any = const(), c: Any = optional()) -> Any:
    """Gemm(Flatten(Transpose(x)), w) -> Gemm(Flatten(x), w with its rows in another order)."""
    return op.Gemm(_flat(op, x), w, c, _bind="product")


@transpose_into_weights.also
def _(op: Any, x: Any, w: Any = const()) -> Any:
    return op.MatMul(_flat(op, x), w, _bind="product")


@transpose_into_weights.rewrite
def _(
    op: Builder, x: Operand, w: Operand, transpose: ir.Node, flatten: ir.Node, product: ir.Node
) -> Replacement:
    sizes = flattened(op, flatten, product)
    if isinstance(sizes, NoMatch):
        return sizes
    perm = op.attribute(transpose, "perm")
    if not perm or perm[0] != 0:
        return NoMatch("the first axis moves too")
    back = np.argsort(perm[1:])
    order = np.arange(int(np.prod(sizes))).reshape(sizes).transpose(back).reshape(-1)
    assert w.array is not None
    transposed = product.op_type == "Gemm" and op.attribute(product, "transB")
    rows = np.ascontiguousarray(w.array[:, order] if transposed else w.array[order])
    flat = op.Reshape(x, np.array([0, len(order)], dtype=np.int64))
    return op.like(product, flat, rows, *product.inputs[2:])


_MOST = 64 << 20  # bytes of weights that are put in another order
_COPIED = 4096  # bytes up to which they are copied if others use them too


def flattened(op: Builder, flatten: ir.Node, product: ir.Node) -> tuple[int, ...] | NoMatch:
    """Return the sizes of all axes but the first, if a product takes them flattened, in any order.

    Args:
        op: Asked for attributes.
        flatten: Flatten or Reshape.
        product: Gemm or MatMul that takes its result.
    """
    data, result, weights = flatten.inputs[0], flatten.outputs[0], product.inputs[1]
    if data is None or data.shape is None or result.shape is None or len(result.shape) != 2:
        return NoMatch("it does not flatten to a matrix, or a rank is unknown")
    sizes = tuple(size for size in data.shape.dims[1:] if isinstance(size, int))
    if len(sizes) != len(data.shape) - 1 or result.shape[1] != int(np.prod(sizes)):
        return NoMatch("what is multiplied is not all but the first axis, of known size")
    if product.inputs[0] is not result or (
        product.op_type == "Gemm" and op.attribute(product, "transA")
    ):
        return NoMatch("the product is over another axis")
    tensor = tensor_of(weights)
    if tensor is None or len(tensor.shape) != 2 or tensor.nbytes > _MOST:
        return NoMatch("the weights are not constant, or very large")
    if tensor.nbytes > _COPIED and weights is not None and use_count(weights) > 1:
        return NoMatch("the weights are used by other nodes too")
    return sizes


def takes_any_order(op: Builder, node: ir.Node) -> bool:
    """Whether a Transpose before a node ends up in the weights behind it."""
    if node.op_type not in ("Flatten", "Reshape") or node.outputs[0].is_graph_output():
        return False
    users = node.outputs[0].consumers()
    return (
        len(users) == 1
        and users[0].op_type in ("Gemm", "MatMul")
        and not isinstance(flattened(op, node, users[0]), NoMatch)
    )


RULES = (
    transpose_to_reshape,
    transpose_into_weights,
    transpose_into_gemm,
    transpose_into_matmul,
)
