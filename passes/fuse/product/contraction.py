# SPDX-License-Identifier: Apache-2.0
"""Einsum becomes MatMul, Mul or Transpose, which the runtime runs faster and other rules know.

A letter of two tensors is one of four kinds: of the batch (in both and in the result), contracted
(in both, not in the result), or kept from the left or the right alone. With their axes in the order

    left: [kept but the last, batch, last kept, contracted]    right: [batch, contracted, kept]

and several contracted axes, or several kept from the right, joined to one, they are what MatMul
multiplies. The batch may come first as well, if that needs fewer Transposes: then all that is kept
from the left is one axis, too, or, where sizes are not known, the right gets axes of size 1. Where
nothing is contracted it is a Mul that broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import with_axes
from burnish.passes.fuse.product.equation import Terms, is_spread, read, transposes
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule

Sizes = dict[str, int | None]
"""Size of each letter's axis; None where it is not known."""


@rule
def einsum_to_transpose(op: Any, x: Any) -> Any:
    """Write Einsum of one tensor as the Transpose it is."""
    return op.Einsum(x, _bind="einsum")


@einsum_to_transpose.rewrite
def _(op: Builder, x: Operand, einsum: ir.Node) -> Replacement:
    before, arrow, after = op.attribute(einsum, "equation").replace(" ", "").partition("->")
    if not arrow or "." in before or len(set(before)) < len(before) or set(before) != set(after):
        return NoMatch("it does more than to order axes")
    return op.Transpose(x, perm=[before.index(letter) for letter in after])


@rule
def einsum_to_matmul(op: Any, a: Any, b: Any) -> Any:
    """Write Einsum of two tensors as MatMul of them transposed, or as Mul if nothing is summed."""
    return op.Einsum(a, b, equation=lambda text: not is_spread(text), _bind="einsum")


# MatMul multiplies each of the several axes by itself, which small ones do not pay for.
@rule(may_lose=True)
def einsum_to_products(op: Any, a: Any, b: Any) -> Any:
    """Write Einsum of two tensors as MatMul of a batch, all of whose products meet one tensor."""
    return op.Einsum(a, b, equation=is_spread, _bind="einsum")


@einsum_to_products.rewrite
@einsum_to_matmul.rewrite
def _(op: Builder, a: Operand, b: Operand, einsum: ir.Node) -> Replacement:
    terms = read(op.attribute(einsum, "equation"))
    if isinstance(terms, NoMatch):
        return terms
    sizes = _sizes((a, terms.left), (b, terms.right))
    if isinstance(sizes, NoMatch):
        return sizes
    if terms.turned is not terms:
        a, b, terms = b, a, terms.turned
    if not terms.contracted:
        left = _spread(op, a, terms.left, terms.result)
        return op.Mul(left, _spread(op, b, terms.right, terms.result))
    rows, batch = terms.only(terms.left), terms.batch
    outer, last = rows[:-1], rows[-1:]
    if transposes(terms, outer + batch) <= transposes(terms, batch + outer):
        return _product(op, a, b, terms, [*outer, *batch, last], [], sizes)
    columns = terms.only(terms.right)
    if _fits([rows, terms.contracted], sizes) and _fits([*rows, *columns], sizes):
        return _product(op, a, b, terms, [*batch, rows], [], sizes)
    return _product(op, a, b, terms, [*batch, *rows], [""] * len(outer), sizes)


def _product(
    op: Builder,
    a: Operand,
    b: Operand,
    terms: Terms,
    kept: list[str],
    units: list[str],
    sizes: Sizes,
) -> Replacement:
    """Multiply, with what is not contracted of the left in these groups, an axis each.

    The right gets axes of size 1 for `units`, behind the batch.
    """
    columns = terms.only(terms.right)
    left = _grouped(op, a, terms.left, [*kept, terms.contracted], sizes)
    right = _grouped(op, b, terms.right, [*terms.batch, *units, terms.contracted, columns], sizes)
    if isinstance(left, NoMatch):
        return left
    if isinstance(right, NoMatch):
        return right
    made = _ungrouped(op, op.MatMul(left, right), [*kept, columns], sizes)
    if isinstance(made, NoMatch):
        return made
    return _transposed(op, made, "".join(kept) + columns, terms.result)


def _sizes(*sides: tuple[Operand, str]) -> Sizes | NoMatch:
    sizes: Sizes = {}
    for x, letters in sides:
        dims = x.dims or [None] * len(letters)
        for letter, dim in zip(letters, dims, strict=True):
            size = dim if isinstance(dim, int) else None
            known = sizes.get(letter)
            if known is not None and size is not None and known != size:
                return NoMatch("axes of one letter broadcast")
            sizes[letter] = known if size is None else size
    if 0 in sizes.values():
        return NoMatch("an axis is empty")
    return sizes


def _spread(op: Builder, x: Operand, letters: str, result: str) -> Any:
    """Order the axes as in the result; those it lacks, behind its first, are of size 1."""
    ordered = _transposed(op, x, letters, "".join(c for c in result if c in letters))
    first = min((result.index(c) for c in letters), default=0)
    lacking = [axis - first for axis in range(first, len(result)) if result[axis] not in letters]
    return with_axes(op, "Unsqueeze", ordered, lacking) if lacking else ordered


def _grouped(op: Builder, x: Operand, letters: str, groups: Sequence[str], sizes: Sizes) -> Any:
    """Transpose to the order of the groups; make each of them one axis."""
    ordered = _transposed(op, x, letters, "".join(groups))
    if all(len(group) == 1 for group in groups):
        return ordered
    if all(len(group) <= 1 for group in groups):
        empty = [axis for axis, group in enumerate(groups) if not group]
        return with_axes(op, "Unsqueeze", ordered, empty)
    shape, alone = [], True
    for group in groups:
        alone = alone and len(group) == 1
        shape.append(0 if alone else _size(group, sizes))
    return _reshaped(op, ordered, shape)


def _ungrouped(op: Builder, x: Any, groups: Sequence[str], sizes: Sizes) -> Any:
    """Give each letter of a group an axis of its own; take out axes that stand for no letter."""
    if all(len(group) <= 1 for group in groups):
        empty = [axis - len(groups) for axis, group in enumerate(groups) if not group]
        return with_axes(op, "Squeeze", x, empty) if empty else x
    alone = next(axis for axis, group in enumerate(groups) if len(group) != 1)
    split = "".join(groups[alone:])
    return _reshaped(op, x, [0] * alone + [_size(letter, sizes) for letter in split])


def _size(letters: str, sizes: Sizes) -> int:
    """Return the size of axes joined, -1 where it is not known."""
    known = [sizes[letter] for letter in letters]
    return -1 if None in known else math.prod(size for size in known if size is not None)


def _fits(groups: Sequence[str], sizes: Sizes) -> bool:
    """Whether Reshape can give each group an axis: it finds one size."""
    return [_size(group, sizes) for group in groups].count(-1) <= 1


def _reshaped(op: Builder, x: Any, shape: list[int]) -> Any:
    if shape.count(-1) > 1:
        return NoMatch("sizes of axes that are joined are not known")
    return op.Reshape(x, np.array(shape, dtype=np.int64))


def _transposed(op: Builder, x: Any, letters: str, order: str) -> Any:
    return x if letters == order else op.Transpose(x, perm=[letters.index(c) for c in order])
