# SPDX-License-Identifier: Apache-2.0
"""Products side by side become one: queries, keys and values; gate and up; branches of 1x1.

Several MatMul, Gemm or Conv that take the same input, each with constant weights, are one operator
with all their weights, and a Split behind it. That is done only where the target's preferences ask
for `merged.MatMul`, `merged.Gemm` or `merged.Conv`, and where measuring does not find it slower: on
CPUs it is no faster. Speed merged against
apart on ONNX Runtime 1.31.1, one thread, AVX-512, its own optimizations at their default, in turns:

    rows                            1             8             128
    3 of 256x256                    1.07          1.02          0.97
    3 of 768x768                    1.04          1.02          0.99
    3 of 2048x2048                  1.10          1.05          0.97
    2 of 256x1024                   0.99          0.98          0.97
    2 of 896x4864                   1.05          1.10          0.97
    896x896, 2 of 896x128           1.00                        0.99
    2048x2048, 2 of 2048x512        1.02                        0.98
    1x1 convolutions of Inception   0.95 to 1.00

Weights that do not fit the caches are read once for few rows; for many rows, to copy the parts
costs more than that gives. No other target has been measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.backends.preferences import find
from burnish.passes.base import Pass
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.rescale import FLOATS
from burnish.passes.proposal import Proposal
from burnish.passes.rule import Builder
from burnish.passes.shapes import infer_shapes

_RULES = {"MatMul": "merge-matmul", "Gemm": "merge-gemm", "Conv": "merge-conv"}
_MOST = 256 << 20  # bytes of weights put together


@dataclass(frozen=True)
class MergeProducts(Pass):
    """Merge MatMul, Gemm or Conv of the same input, where the target is known to gain by it."""

    name: ClassVar[str] = "merge-products"
    rule_names: ClassVar[tuple[str, ...]] = tuple(_RULES.values())

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Merge in the main graph and its subgraphs."""
        infer_shapes(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for siblings in list(_groups(graph)):
                first = siblings[0]
                rule = _RULES[first.op_type]
                reason = _objection(siblings, ctx)
                if reason is not None:
                    ctx.refuse(rule, first, reason)
                    continue
                made = _merged(siblings, model.opset_imports)
                loss = made.loss(rule, _entry(first), model.opset_imports, ctx)
                if loss is None:
                    with ctx.rewrite(rule, first) as go:
                        if go:
                            made.put_in(model)
                            continue
                else:
                    ctx.refuse(rule, first, loss.reason, repair=loss.repair)
                made.withdraw()


def _groups(graph: ir.Graph) -> Iterable[list[ir.Node]]:
    """Find nodes that take the same input and are alike but for their constant weights."""
    found: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        if node.op_type in _RULES and node.domain == "" and _is_constant(node):
            alike = sorted((name, repr(item.value)) for name, item in node.attributes.items())
            weights = tensor_of(node.inputs[1])
            assert weights is not None
            kept = list(weights.shape)
            kept.pop(_weight_axis(node))
            key = (node.inputs[0], node.op_type, len(node.inputs), *alike, *kept, weights.dtype)
            found.setdefault(key, []).append(node)
    return (nodes for nodes in found.values() if len(nodes) > 1)


def _is_constant(node: ir.Node) -> bool:
    weights, *bias = (tensor_of(value) for value in node.inputs[1:])
    if weights is None or len(weights.shape) != (2 if node.op_type != "Conv" else 4):
        return False
    if any(item is None or len(item.shape) != 1 for item in bias) or node.inputs[0] is None:
        return False
    size = weights.shape[_weight_axis(node)]
    if any(item is not None and item.shape[0] != size for item in bias):
        return False
    return weights.dtype in FLOATS and node.attributes.get_int("group", 1) == 1


def _weight_axis(node: ir.Node) -> int:
    """Return the axis of the weights that becomes the channels of the output."""
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1


def _entry(node: ir.Node) -> str:
    """Return what the target's table of preferences calls several such nodes merged."""
    return f"merged.{node.op_type}"


def _objection(siblings: Sequence[ir.Node], ctx: PassContext) -> str | None:
    first = siblings[0]
    assert first.inputs[0] is not None
    dtype = first.inputs[0].dtype
    operator = _entry(first)
    known = find(ctx.target.preferences, operator, None if dtype is None else dtype.name)
    if known is None:
        return f"not measured on target {ctx.target.name}"
    if not known.prefer:
        return ctx.target.objection_to(operator, dtype)
    tensors = [tensor_of(node.inputs[1]) for node in siblings]
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) > _MOST:
        return "the weights are very large"
    return None


def _merged(siblings: Sequence[ir.Node], opset_imports: dict[str, int]) -> Proposal:
    first = siblings[0]
    op = Builder(opset_imports)
    inputs: list[np.ndarray] = []
    for index in range(1, len(first.inputs)):
        tensors = (tensor_of(node.inputs[index]) for node in siblings)
        arrays = [tensor.numpy() for tensor in tensors if tensor is not None]
        inputs.append(np.concatenate(arrays, axis=_weight_axis(first) if index == 1 else 0))
    sizes = []
    for node in siblings:
        weights = tensor_of(node.inputs[1])
        assert weights is not None
        sizes.append(weights.shape[_weight_axis(node)])
    merged = op.like(first, first.inputs[0], *inputs)
    axis = -1 if first.op_type == "MatMul" else 1
    if opset_imports.get("", 1) < 13:
        parts = op.Split(merged, axis=axis, split=sizes, _outputs=len(siblings))
    else:
        given = np.array(sizes, dtype=np.int64)
        parts = op.Split(merged, given, axis=axis, _outputs=len(siblings))
    pairs = [(node.outputs[0], part) for node, part in zip(siblings, parts, strict=True)]
    made = Proposal(siblings, op, pairs)
    made.infer(opset_imports)
    return made
