# SPDX-License-Identifier: Apache-2.0
"""Which products are written as convolutions: those of one input, and what follows, at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.cleanup.chains import transpose_transpose
from burnish.passes.constant import tensor_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.conv.blocked import fits_blocks, has_blocked_layout
from burnish.passes.fuse.product.chain import Product, beside, between, front_of, product_of, waits
from burnish.passes.fuse.product.pointwise.writer import ConvWriter, Written
from burnish.passes.proposal import Proposal
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch
from burnish.passes.shapes import infer_shapes

CHAIN, ALONE = "Conv-pointwise", "Conv-product"
"""Entries in the table of preferences: of products with something between, and of one alone."""

_RULE = "products-to-convs"
_MAPPED_BYTES = 1 << 30
"""Weights in files that are more than this stay there: written anew they would be in memory."""

_OPSET = 13  # from which on Squeeze and Unsqueeze take their axes as an input


@dataclass(frozen=True)
class ProductsToConvs(Pass):
    """Write MatMul and Gemm, and what stands between several of them, as convolutions of 1x1."""

    name: ClassVar[str] = "products-to-convs"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE, transpose_transpose.name)

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Go through the main graph and its subgraphs, from the inputs on.

        A map that was turned once more behind its product was in front already.
        """
        blocked = has_blocked_layout(ctx.target)
        objection = ctx.target.objection_to(CHAIN, ir.DataType.FLOAT)
        if not blocked or objection is not None or model.opset_imports.get("", 1) < _OPSET:
            return
        infer_shapes(model)
        staying = _staying(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            shared: Written = {}
            seen: set[ir.Node] = set()
            for node in list(graph):
                product = product_of(node) if node.graph is graph and node not in seen else None
                if product is not None and not waits(product):
                    siblings = beside(product)
                    seen.update(part for item in siblings for part in item.nodes)
                    _convolve(siblings, node, model, ctx, shared, staying)
        apply_rules(model, (transpose_transpose,), ctx)


def _staying(model: ir.Model) -> dict[ir.Value, str]:
    """Return the constants that are to stay as they are, and why."""
    tensors = {
        value: tensor
        for graph in model.graphs()
        for value in graph.initializers.values()
        if isinstance(tensor := tensor_of(value), ir.ExternalTensor)
    }
    found: dict[ir.Value, str] = {}
    if sum(tensor.nbytes for tensor in tensors.values()) > _MAPPED_BYTES:
        found = dict.fromkeys(tensors, "the weights are mapped from a file too large for memory")
    for node in model.graph.all_nodes():
        if node.op_type not in ("Gemm", "MatMul"):
            for value in node.inputs:
                if value is not None and tensor_of(value) is not None:
                    found[value] = "the weights are used by other nodes too"
    return found


def _convolve(
    products: list[Product],
    first: ir.Node,
    model: ir.Model,
    ctx: PassContext,
    shared: Written,
    staying: Mapping[ir.Value, str],
) -> None:
    """Write products of the same input, of which one node comes first, as convolutions.

    Or say why not.
    """
    reasons = [(product, _objection(product, staying)) for product in products]
    for product, reason in reasons:
        if reason is not None:
            ctx.refuse(_RULE, product.nodes[0], reason)
    products = [product for product, reason in reasons if reason is None]
    if not products:
        return
    nodes = between(products)
    writer = ConvWriter(Builder(model.opset_imports), nodes, shared)
    pairs = [
        (product.result, writer.leave(writer.product(product), product.result))
        for product in products
    ]
    made = Proposal([*(node for item in products for node in item.nodes), *nodes], writer.op, pairs)
    root = products[0].nodes[0]
    entry = CHAIN if nodes or front_of(products[0].x) is not None else ALONE
    objection = ctx.target.objection_to(entry) if ctx.decisions is None else None
    refused: NoMatch | None
    if not all(fits_blocks(node) for node in writer.op.nodes if node.op_type == "Conv"):
        refused = NoMatch("the channels are no multiple of four")
    elif objection is not None:
        refused = NoMatch(objection)
    else:
        refused = made.loss(_RULE, entry, model.opset_imports, ctx)
    if refused is None:
        with ctx.rewrite(_RULE, root) as go:
            if go:
                made.put_in(model, first)
                shared.update(writer.made)
                return
    else:
        for product in products:
            ctx.refuse(_RULE, product.nodes[0], refused.reason, repair=refused.repair)
    made.withdraw()


def _objection(product: Product, staying: Mapping[ir.Value, str]) -> str | None:
    if product.weights.dtype != ir.DataType.FLOAT:
        return "only float32 has the blocked layout"
    shape = product.x.shape
    if shape is None or len(shape) not in (2, 3, 4):
        return "what is multiplied has not two to four axes, or they are unknown"
    if len(shape) == 2 and shape[0] != 1:
        return "the rows may be samples, which are not one map"
    return staying.get(product.weights)
