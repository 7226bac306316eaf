# SPDX-License-Identifier: Apache-2.0
"""Pointwise convolutions of what has its channels behind are products of rows: the way back.

    x -> Unsqueeze, Transpose -> Conv, Gelu, Conv -> Transpose, Squeeze     MatMul, Gelu, MatMul

`pointwise` writes such maps for the sake of float32 kernels. Int8 has its own: what is quantized
from a file that `fuse` has written is to be the same as from the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.constant import as_array, is_constant, tensor_of
from burnish.passes.context import PassContext
from burnish.passes.edit import use_count
from burnish.passes.fuse.product.chain import TO_FRONT, front_of, is_elementwise, makes_map_of_rows
from burnish.passes.proposal import Proposal
from burnish.passes.quant.ready import passed_through
from burnish.passes.rule import Builder
from burnish.passes.shapes import infer_shapes

_RULE = "convs-to-products"
_ONES = {"strides": 1, "dilations": 1, "pads": 0}


@dataclass(frozen=True)
class ConvsToProducts(Pass):
    """Write pointwise convolutions between Transposes as MatMul."""

    name: ClassVar[str] = "convs-to-products"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Go through the main graph and its subgraphs, unless the model is quantized already."""
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in reversed(list(graph)):  # Squeeze before the Transpose in front of it
                left = node.outputs[0] if node.graph is graph and node.outputs else None
                front = None if left is None or len(left.shape or ()) < 3 else front_of(left)
                if left is None or front is None:
                    continue
                rank = len(left.shape or ())
                within = _within(front, node, rank)
                if isinstance(within, str):
                    ctx.refuse(_RULE, node, within)
                    continue
                rows = _Rows(Builder(model.opset_imports), within, rank)
                made = Proposal([node, *within], rows.op, [(left, rows.of(front))])
                made.infer(model.opset_imports)
                with ctx.rewrite(_RULE, node) as go:
                    if go:
                        made.put_in(model)
                        continue
                made.withdraw()


def _within(front: ir.Value, leaves: ir.Node, rank: int) -> dict[ir.Node, None] | str:
    """Return what computes a value from rows whose channels were brought in front, or say why not.

    Args:
        front: Has its channels in front.
        leaves: The last node of those that bring them back.
        rank: Number of axes then.
    """
    back = leaves.inputs[0]
    if rank == 3 and back is not None and (use_count(back) > 1 or back.is_graph_output()):
        return "others read the map, too"
    found: dict[ir.Node, None] = {}
    pending, convolved = [front], False
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in found or _enters(node, rank) is not None:
            if node is None:
                return "what is convolved comes from elsewhere too"
            continue
        if not (_is_pointwise(node) or is_elementwise(node)):
            return "what stands between is no pointwise convolution"
        convolved = convolved or node.op_type == "Conv"
        found[node] = None
        pending += [item for item in node.inputs if item is not None and not is_constant(item)]
    exits = {leaves, *(value.producer() for value in leaves.inputs if value is not None)}
    readers = found.keys() | exits
    for node in found:
        users = set(node.outputs[0].consumers())
        if node.outputs[0].is_graph_output() or not users <= readers:
            return "others read what stands between"
    return found if convolved else "there is no convolution"


def _enters(node: ir.Node, rank: int) -> ir.Value | None:
    """Return the rows, of so many axes, whose channels a node brings in front."""
    before = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
    if before is None or node.attributes.get_ints("perm") != TO_FRONT:
        return None
    if rank == 4:
        return before
    maker = before.producer()
    return maker.inputs[0] if maker is not None and makes_map_of_rows(maker) else None


def _is_pointwise(node: ir.Node) -> bool:
    weights = tensor_of(node.inputs[1]) if node.op_type == "Conv" and node.domain == "" else None
    if weights is None or len(weights.shape) != 4 or tuple(weights.shape)[2:] != (1, 1):
        return False
    alone = node.attributes.get_int("group", 1) == 1
    plain = all(
        set(node.attributes.get_ints(name, [number])) == {number} for name, number in _ONES.items()
    )
    return alone and plain and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


@dataclass
class _Rows:
    """Writes products of rows for convolutions.

    Attributes:
        op: Builds them.
        within: What is written anew.
        rank: Number of axes of rows.
    """

    op: Builder
    within: dict[ir.Node, None]
    rank: int

    def of(self, front: ir.Value) -> ir.Value:
        """Return a value that had its channels in front as it is with them behind."""
        made: dict[ir.Value, ir.Value] = {}
        makers = {
            node: [v.producer() for v in node.inputs if v is not None] for node in self.within
        }
        for node in TopologicalSorter(makers).static_order():
            if node is None or node not in makers:
                continue
            inputs = [
                item if item is None or is_constant(item) else made.get(item) or self._rows(item)
                for item in node.inputs
            ]
            made[node.outputs[0]] = self._product(node, inputs)
        return made[front]

    def _rows(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        rows = None if node is None else _enters(node, self.rank)
        assert rows is not None
        return rows

    def _product(self, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
        if node.op_type != "Conv":
            same: ir.Value = self.op.like(node, *inputs)
            return same
        weights = as_array(node.inputs[1])
        assert weights is not None
        made: ir.Value = self.op.MatMul(
            inputs[0], np.ascontiguousarray(weights.reshape(weights.shape[:2]).T)
        )
        bias = inputs[2] if len(inputs) > 2 else None
        return made if bias is None else self.op.Add(made, bias)
