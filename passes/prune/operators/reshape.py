# SPDX-License-Identifier: Apache-2.0
"""The same elements in other axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from burnish.passes import products
from burnish.passes.prune.coupling import Couplings, Dim, Product
from burnish.passes.prune.operators.rule import Rules, entering, required

RULES: Rules = {}
_rule = entering(RULES)


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(couplings: Couplings, node: ir.Node) -> None:
    """Axes with the same number of elements before and after correspond."""
    data, result = required(node, 0), node.outputs[0]
    before: list[Dim] = [
        (data, axis) for axis, size in enumerate(couplings.shape(data)) if size != 1
    ]
    after: list[Dim] = [
        (result, axis) for axis, size in enumerate(couplings.shape(result)) if size != 1
    ]
    for left, right in _runs(couplings, before, after):
        if len(left) == len(right) == 1:
            couplings.same(left[0], right[0])
        elif all(isinstance(couplings.size(dim), int) for dim in (*left, *right)) and (
            len(left) == 1 or len(right) == 1
        ):
            whole, factors = (left[0], right) if len(left) == 1 else (right[0], left)
            for dim in (whole, *factors):
                couplings.add(dim)
                couplings.mention(dim)
            couplings.products.append(Product(whole, tuple(factors), node.op_type))
        elif left and right:
            _leading(couplings, left[0], right[0])


def _leading(couplings: Couplings, left: Dim, right: Dim) -> None:
    """Couple the outermost axes of which one is a multiple of the other, whatever is inside."""
    ours, theirs = couplings.size(left), couplings.size(right)
    if not isinstance(ours, int) or not isinstance(theirs, int):
        return
    fine, coarse = (left, right) if ours >= theirs else (right, left)
    if max(ours, theirs) % min(ours, theirs) == 0:
        couplings.blocks(fine, coarse)


def _runs(
    couplings: Couplings, before: list[Dim], after: list[Dim]
) -> list[tuple[list[Dim], list[Dim]]]:
    """Cut two lists of axes into the shortest runs of the same number of elements each."""
    runs: list[tuple[list[Dim], list[Dim]]] = []
    tail: list[tuple[list[Dim], list[Dim]]] = []
    before, after = [*before], [*after]

    def alike(left: Dim, right: Dim) -> bool:
        return couplings.size(left) == couplings.size(right) is not None

    while before and after and alike(before[0], after[0]):
        runs.append(([before.pop(0)], [after.pop(0)]))
    while before and after and alike(before[-1], after[-1]):
        tail.insert(0, ([before.pop()], [after.pop()]))
    while before or after:
        run = _shortest(couplings, before, after)
        runs.append(run)
        before, after = before[len(run[0]) :], after[len(run[1]) :]
    return runs + tail


def _shortest(
    couplings: Couplings, before: list[Dim], after: list[Dim]
) -> tuple[list[Dim], list[Dim]]:
    totals = [_running_products(couplings, before), _running_products(couplings, after)]
    for ours, total in enumerate(totals[0], 1):
        if total is not None and total in totals[1]:
            return before[:ours], after[: totals[1].index(total) + 1]
    return before, after


def _running_products(couplings: Couplings, dims: Sequence[Dim]) -> list[str | None]:
    """Return the number of elements of the first axis, the first two, and so on."""
    sizes: list[ir.SymbolicDim | int] = []
    totals: list[str | None] = []
    for dim in dims:
        size = couplings.size(dim)
        if size is None:
            return totals + [None] * (len(dims) - len(totals))
        sizes.append(size if isinstance(size, int) else ir.SymbolicDim(size))
        total = products.product(sizes)
        totals.append(None if total is None else str(total))
    return totals
