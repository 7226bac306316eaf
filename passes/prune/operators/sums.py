# SPDX-License-Identifier: Apache-2.0
"""Sums of products: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from burnish.passes.constant import is_constant
from burnish.passes.prune.coupling import Couplings, Dim, Size, Unclear
from burnish.passes.prune.operators.rule import (
    MICROSOFT,
    Rules,
    broadcast,
    entering,
    given,
    required,
)

RULES: Rules = {}
_rule = entering(RULES)


@_rule("Conv")
@_rule("FusedConv", domain=MICROSOFT)
def _conv(couplings: Couplings, node: ir.Node) -> None:
    """Weights [outputs, inputs / groups, ...]."""
    result = node.outputs[0]
    _convolve(couplings, node, near=(required(node, 0), 1), far=(result, 1))
    if (residual := given(node, 3)) is not None:
        broadcast(couplings, [residual], result)


@_rule("ConvTranspose")
def _conv_transpose(couplings: Couplings, node: ir.Node) -> None:
    """Weights [inputs, outputs / groups, ...]."""
    _convolve(couplings, node, near=(node.outputs[0], 1), far=(required(node, 0), 1))


def _convolve(couplings: Couplings, node: ir.Node, *, near: Dim, far: Dim) -> None:
    """Couple a convolution's channels with its weights.

    Args:
        couplings: Where to.
        node: The convolution.
        near: The channels that the second axis of the weights has, those of one group.
        far: The channels that the first axis has, all of them.
    """
    weight, result = required(node, 1), node.outputs[0]
    total, each = couplings.shape(weight)[:2]
    groups = node.attributes.get_int("group", 1) or 1
    couplings.same((required(node, 0), 0), (result, 0))
    couplings.same((weight, 0), far)
    if (bias := given(node, 2)) is not None:
        couplings.same((bias, 0), (result, 1))
    if groups == 1:
        couplings.same(near, (weight, 1))
    else:
        _grouped(couplings, groups, near, each, far, total, inner=(weight, 1))


def _grouped(
    couplings: Couplings,
    groups: int,
    near: Dim,
    each: Size,
    far: Dim,
    total: Size,
    *,
    inner: Dim,
) -> None:
    """Couple the channels of a convolution with groups.

    Either whole groups go, where there are many (depthwise convolutions have nothing else), or the
    same channels of every group.

    Args:
        couplings: Where to.
        groups: Number of groups.
        near: The channels whose weights' axis has those of one group.
        each: Number of them in a group.
        far: The channels whose weights' axis has them all.
        total: Number of them.
        inner: The weights' axis of `each`.
    """
    if not isinstance(each, int) or not isinstance(total, int):
        raise Unclear("the shape of the weights is not known")
    if couplings.size(near) != groups * each or couplings.size(far) != total:
        raise Unclear("the number of channels is not known")
    if total == groups and each == 1:
        couplings.same(near, far)
    elif groups >= each:
        group = couplings.stand_in("groups", groups)
        couplings.blocks(near, group)
        couplings.blocks(far, group)
    else:
        couplings.cycle(near, inner)
        couplings.cycle(far, couplings.stand_in("place in group", total // groups))


def _multiply(
    couplings: Couplings, left: ir.Value, right: ir.Value, axes: Sequence[Sequence[str]]
) -> list[Dim]:
    """Couple what Einsum would with these labels: of `left`, `right` and the result.

    Returns:
        The dimensions of the operands that are summed over.
    """
    summed: list[Dim] = []
    activations = not is_constant(left) and not is_constant(right)
    by_label: dict[str, list[Dim]] = {}
    for value, labels in zip((left, right), axes[:2], strict=True):
        if len(couplings.shape(value)) != len(labels):
            raise Unclear("the rank is not known")
        for axis, label in enumerate(labels):
            by_label.setdefault(label, []).append((value, axis))
    for label, dims in by_label.items():
        if label not in axes[2]:
            summed += dims
            if activations or len(dims) < 2:
                for dim in dims:
                    couplings.keep(dim, "a sum over products of two activations")
                    couplings.mention(dim)
                continue
        if len(dims) == 2:
            couplings.same(dims[0], dims[1])
            if (
                activations
                and label in axes[2]
                and couplings.size(dims[0]) == couplings.size(dims[1])
            ):
                couplings.heads.update(dim for dim in dims if couplings.add(dim))
    return summed


def _result(
    couplings: Couplings,
    result: ir.Value,
    axes: Sequence[Sequence[str]],
    operands: Sequence[ir.Value],
) -> None:
    for axis, label in enumerate(axes[2]):
        for value, labels in zip(operands, axes[:2], strict=True):
            for own, other in enumerate(labels):
                if other == label:
                    couplings.same((value, own), (result, axis))


@_rule("MatMul")
def _matmul(couplings: Couplings, node: ir.Node) -> None:
    left, right, result = required(node, 0), required(node, 1), node.outputs[0]
    ranks = len(couplings.shape(left)), len(couplings.shape(right))
    if min(ranks) < 2:
        raise Unclear("an operand is a vector")
    batches = [f"batch {at}" for at in range(max(ranks) - 2, 0, -1)]
    axes = (
        [*batches[len(batches) - ranks[0] + 2 :], "row", "sum"],
        [*batches[len(batches) - ranks[1] + 2 :], "sum", "column"],
        [*batches, "row", "column"],
    )
    _multiply(couplings, left, right, axes)
    _result(couplings, result, axes, (left, right))


@_rule("Gemm")
def _gemm(couplings: Couplings, node: ir.Node) -> None:
    left, right, result = required(node, 0), required(node, 1), node.outputs[0]
    axes = (
        ["sum", "row"] if node.attributes.get_int("transA", 0) else ["row", "sum"],
        ["column", "sum"] if node.attributes.get_int("transB", 0) else ["sum", "column"],
        ["row", "column"],
    )
    _multiply(couplings, left, right, axes)
    _result(couplings, result, axes, (left, right))
    broadcast(couplings, [given(node, 2)], result)


@_rule("Einsum")
def _einsum(couplings: Couplings, node: ir.Node) -> None:
    equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    operands, arrow, outcome = equation.partition("->")
    parts = operands.split(",")
    if not arrow or "." in equation or len(parts) != 2 or any(len(set(p)) < len(p) for p in parts):
        raise Unclear("an equation of another form than ab,bc->ac")
    axes = (*map(list, parts), list(outcome))
    left, right = required(node, 0), required(node, 1)
    _multiply(couplings, left, right, axes)
    _result(couplings, node.outputs[0], axes, (left, right))
