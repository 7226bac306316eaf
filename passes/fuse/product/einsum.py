# SPDX-License-Identifier: Apache-2.0
"""Products of many axes as tf2onnx spells einsum and tensordot become plain MatMuls.

It gives each letter an axis of its own (Unsqueeze, Transpose), joins axes into three by sizes that
it computes (Shape, Gather, ReduceProd, Concat, Reshape), multiplies, and splits them again. Every
MultiHeadAttention and Dense of Keras is written so, and none is found as long as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.passes.cleanup.arguments import with_axes
from burnish.passes.cleanup.chains import transpose_transpose
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.cleanup.no_op import reshape_to_same
from burnish.passes.cleanup.views import unsqueeze_squeeze
from burnish.passes.constant import as_array
from burnish.passes.fuse.product.contraction import (
    einsum_to_matmul,
    einsum_to_products,
    einsum_to_transpose,
)
from burnish.passes.fuse.scalar import is_scalar
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule


def _joined(op: Any, x: Any, first: Any, last: Any) -> Any:
    """Pattern of `x` as three axes: the first ones joined, those in the middle, and the last."""
    sizes = op.Gather(op.Shape(x, _shared=True), first, axis=0, _shared=True)
    product = op.ReduceProd(sizes, _more=True, keepdims=1, _shared=True)
    return op.Reshape(x, op.Concat(product, -1.0, last, axis=0, _shared=True))


@rule
def matmul_of_joined(
    op: Any,
    a: Any,
    b: Any,
    many: Any = const(),
    also: Any = const(),
    rows: Any = const(is_scalar),
    columns: Any = const(is_scalar),
) -> Any:
    """Multiply what was joined to three axes with its own axes."""
    left, right = _joined(op, a, many, rows), _joined(op, b, also, columns)
    turned = op.Transpose(right, perm=lambda perm: tuple(perm) == (0, 2, 1), _bind="turned")
    return op.Reshape(op.MatMul(left, op.either(turned, right)), _more=True, _bind="root")


@matmul_of_joined.rewrite
def _(
    op: Builder,
    a: Operand,
    b: Operand,
    many: Operand,
    also: Operand,
    rows: Operand,
    columns: Operand,
    turned: ir.Node | None,
    root: ir.Node,
) -> Replacement:
    target = as_array(root.inputs[1])
    if target is None or not target.all():
        return NoMatch("the shape behind is not a constant without copied sizes")
    parts = []
    for x, first, last in ((a, many, rows), (b, also, columns)):
        assert first.array is not None
        assert last.array is not None
        if x.dims is None or first.array.tolist() != list(range(first.array.size)):
            return NoMatch("not the first axes are joined, or their number is unknown")
        middle = range(first.array.size, len(x.dims) - 1)
        alone = [axis for axis in middle if x.dims[axis] == 1]
        if len(middle) - len(alone) > 1 or not middle:
            return NoMatch("more than one axis is joined in the middle")
        if x.dims[-1] != last.array.item():
            return NoMatch("the last axis is not kept")
        units = alone if len(alone) < len(middle) else alone[1:]
        parts.append(with_axes(op, "Squeeze", x.value, tuple(units)) if units else x.value)
    left, right = parts
    if many.array is None or also.array is None or many.array.size != also.array.size:
        return NoMatch("not as many axes are joined on both sides")
    assert a.dims is not None
    assert b.dims is not None
    pairs = list(zip(a.dims, b.dims, strict=False))[: many.array.size]
    if sum(not same_dim(*pair) for pair in pairs) > 1:  # equal products leave one to be known
        return NoMatch("other sizes are joined on both sides")
    if turned is not None:
        axes = list(range(many.array.size + 2))
        right = op.Transpose(right, perm=[*axes[:-2], axes[-1], axes[-2]])
    return op.Reshape(op.MatMul(left, right), root.inputs[1])


@rule
def units_past_transpose(op: Any, x: Any) -> Any:
    """Squeeze(Transpose(Unsqueeze(x))) -> Transpose(x) where the same axes come and go."""
    wide = op.Unsqueeze(x, _more=True, _bind="inner")
    return op.Squeeze(op.Transpose(wide, _bind="transpose"), _more=True, _bind="outer")


@units_past_transpose.rewrite
def _(op: Builder, x: Operand, inner: ir.Node, transpose: ir.Node, outer: ir.Node) -> Replacement:
    perm = op.attribute(transpose, "perm")
    made, taken = _axes(op, inner), _axes(op, outer)
    if perm is None or made is None or taken is None:
        return NoMatch("the axes are unknown")
    came = {axis % len(perm) for axis in made}
    went = {axis % len(perm) for axis in taken}
    if {perm[axis] for axis in went} != came:
        return NoMatch("other axes go than have come")
    left = [axis for axis in range(len(perm)) if axis not in came]
    return op.Transpose(x, perm=[left.index(axis) for axis in perm if axis not in came])


def _axes(op: Builder, node: ir.Node) -> list[int] | None:
    axes: list[int] | None = op.attribute(node, "axes")
    if axes is None and len(node.inputs) > 1:
        array = as_array(node.inputs[1])
        axes = None if array is None else array.tolist()
    return axes


@rule
def matmul_of_rows(op: Any, x: Any, w: Any = const()) -> Any:
    """Reshape(MatMul(Reshape(x, [-1, k]), W)) -> MatMul(x, W) where the axes are as before."""
    flat = op.Reshape(x, _more=True, _bind="flatten")
    return op.Reshape(op.MatMul(flat, w), _more=True, _bind="root")


@matmul_of_rows.rewrite
def _(op: Builder, x: Operand, w: Operand, flatten: ir.Node, root: ir.Node) -> Replacement:
    flat, result = Operand(flatten.outputs[0]), Operand(root.outputs[0])
    if x.dims is None or flat.rank != 2 or w.rank != 2 or flat.dims is None or w.dims is None:
        return NoMatch("the rank is unknown, or not of a product of rows")
    if flat.dims[-1] != x.dims[-1] or not isinstance(x.dims[-1], int):
        return NoMatch("not the axes before the last are joined")
    if result.dims is None or len(result.dims) != len(x.dims) or result.dims[-1] != w.dims[-1]:
        return NoMatch("the axes behind are not those before")
    apart = [a for a, b in zip(x.dims[:-1], result.dims[:-1], strict=True) if not same_dim(a, b)]
    if len(apart) > 1:  # since the rows are as many, one size need not be known
        return NoMatch("the axes behind are not those before")
    return op.MatMul(x, w)


@rule
def bias_before_split(op: Any, x: Any, b: Any = const()) -> Any:
    """Add(Reshape(x), b) -> Reshape(Add(x, b)) where the last axis of x is split in two."""
    return op.Add(op.Reshape(x, _more=True, _bind="split"), b)


@bias_before_split.rewrite
def _(op: Builder, x: Operand, b: Operand, split: ir.Node) -> Replacement:
    result = Operand(split.outputs[0])
    if x.dims is None or result.dims is None or b.array is None or not isinstance(x.dims[-1], int):
        return NoMatch("a size is unknown")
    producer = x.value.producer()
    if producer is None or producer.op_type != "MatMul":
        return NoMatch("no product is before")
    pair = result.dims[-2:]
    if b.array.shape != pair or b.array.size != x.dims[-1] or len(result.dims) != len(x.dims) + 1:
        return NoMatch("the constant is not one number for each of the last axis")
    return op.Reshape(op.Add(x, b.array.reshape(-1)), *split.inputs[1:])


@dataclass(frozen=True)
class FuseEinsum(RulePass):
    """Turn products that tf2onnx spells by joining and splitting axes into plain ones."""

    name: ClassVar[str] = "fuse-einsum"
    rules: ClassVar[tuple[Rule, ...]] = (
        einsum_to_transpose,
        einsum_to_matmul,
        einsum_to_products,
        matmul_of_joined,
        units_past_transpose,
        matmul_of_rows,
        bias_before_split,
        unsqueeze_squeeze,
        transpose_transpose,
        reshape_to_same,
    )
