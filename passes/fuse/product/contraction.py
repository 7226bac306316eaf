# SPDX-License-Identifier: Apache-2.0
"""Einsum becomes MatMul, Mul or Transpose, which the runtime runs faster and other rules know.

A letter of two tensors is one of four kinds: of the batch (in both and in the result), contracted
(in both, not in the result), or kept from the left or the right alone. With their axes in the order

    left: [kept but the last, batch, last kept, contracted]    right: [batch, contracted, kept]

and several contracted axes, or several kept from the right, joined to one, they are what MatMul
multiplies. Where nothing is contracted it is a Mul that broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import with_axes
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
    return op.Einsum(a, b, _bind="einsum")


@einsum_to_matmul.rewrite
def _(op: Builder, a: Operand, b: Operand, einsum: ir.Node) -> Replacement:
    terms = _read(op.attribute(einsum, "equation"))
    if isinstance(terms, NoMatch):
        return terms
    sizes = _sizes((a, terms.left), (b, terms.right))
    if isinstance(sizes, NoMatch):
        return sizes
    if terms.result[-1:] and terms.result[-1] not in terms.right:
        # The other way round, what MatMul gives has its last axis last.
        a, b, terms = b, a, _Terms(terms.right, terms.left, terms.result)
    if not terms.contracted:
        left = _spread(op, a, terms.left, terms.result)
        return op.Mul(left, _spread(op, b, terms.right, terms.result))
    rows, columns = terms.only(terms.left), terms.only(terms.right)
    left = _grouped(
        op, a, terms.left, [*rows[:-1], *terms.batch, rows[-1:], terms.contracted], sizes
    )
    right = _grouped(op, b, terms.right, [*terms.batch, terms.contracted, columns], sizes)
    if isinstance(left, NoMatch):
        return left
    if isinstance(right, NoMatch):
        return right
    made = _ungrouped(op, op.MatMul(left, right), rows, columns, len(terms.batch), sizes)
    if isinstance(made, NoMatch):
        return made
    return _transposed(op, made, rows[:-1] + terms.batch + rows[-1:] + columns, terms.result)


@dataclass(frozen=True)
class _Terms:
    """The letters of two tensors and of the result."""

    left: str
    right: str
    result: str

    @property
    def contracted(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    @property
    def batch(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    def only(self, side: str) -> str:
        return "".join(c for c in self.result if c in side and c not in self.batch)


def _read(equation: str) -> _Terms | NoMatch:
    terms, arrow, result = equation.replace(" ", "").partition("->")
    left, _, right = terms.partition(",")
    if "." in terms:
        return NoMatch("the equation has an ellipsis")
    if not arrow:
        result = "".join(sorted(set(left) ^ set(right)))
    if any(len(set(term)) < len(term) for term in (left, right, result)):
        return NoMatch("a letter comes twice in one tensor")
    if not set(left) ^ set(right) <= set(result):
        return NoMatch("an axis that one tensor alone has is summed")
    return _Terms(left, right, result)


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
        shape.append(0 if alone else _product(group, sizes))
    return _reshaped(op, ordered, shape)


def _ungrouped(op: Builder, product: Any, rows: str, columns: str, batch: int, sizes: Sizes) -> Any:
    """Give each letter of the right its own axis again; take out axes that stand for no letter."""
    kept = len(rows) + batch
    if len(columns) > 1:
        return _reshaped(op, product, [0] * kept + [_product(c, sizes) for c in columns])
    axes = [axis for axis, letter in ((-2, rows[-1:]), (-1, columns)) if not letter]
    return with_axes(op, "Squeeze", product, axes) if axes else product


def _product(letters: str, sizes: Sizes) -> int:
    """Return the size of axes joined, -1 where it is not known."""
    known = [sizes[letter] for letter in letters]
    return -1 if None in known else math.prod(size for size in known if size is not None)


def _reshaped(op: Builder, x: Any, shape: list[int]) -> Any:
    if shape.count(-1) > 1:
        return NoMatch("sizes of axes that are joined are not known")
    return op.Reshape(x, np.array(shape, dtype=np.int64))


def _transposed(op: Builder, x: Any, letters: str, order: str) -> Any:
    return x if letters == order else op.Transpose(x, perm=[letters.index(c) for c in order])
