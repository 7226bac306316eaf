# SPDX-License-Identifier: Apache-2.0
"""Products with constant weights run as pointwise convolutions, whose kernels are the faster ones.

On CPUs ONNX Runtime multiplies float32 matrices slower than it convolves in its blocked layout. A
product is a convolution of 1x1 whose pixels are the rows, and what stands between two products (a
Gelu, the gate of a SwiGLU) works in that layout too:

    [B, S, C] -> [1, B, S, C] -> [1, C, B, S] -> Conv, Gelu, Conv -> and back

Batch and tokens are the two spatial axes, so that all rows are one run of pixels whichever is long;
the runtime makes one reordering of the Transpose and the entrance into its layout. A single row,
[1, C], is a map of one pixel; a map that was flattened before its product is convolved as it is,
with a kernel of its own size.

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns:

    rows                                1        16 to 32   128
    384 -> 1536 -> Gelu -> 384          1.36     1.28       1.12
    768 -> 3072 -> Gelu -> 768          1.19     1.36       1.10
    512 -> 2 of 1376 -> SwiGLU -> 512   1.20     1.27       1.03
    384 -> 384                          0.94     1.02       1.02
    1024 -> 1024                        1.25     1.30       1.08
    flattened 256x6x6 -> 4096           1.30
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.base import Group, Pass
from burnish.passes.cleanup.chains import transpose_transpose
from burnish.passes.constant import as_array, is_constant, tensor_of
from burnish.passes.context import PassContext
from burnish.passes.fuse.conv.blocked import fits_blocks, has_blocked_layout
from burnish.passes.fuse.product.chain import (
    TO_BACK,
    TO_FRONT,
    Product,
    beside,
    between,
    front_of,
    product_of,
    waits,
)
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.proposal import Proposal
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Builder, NoMatch
from burnish.passes.shapes import infer_node, infer_shapes

CHAIN, ALONE = "Conv-pointwise", "Conv-product"
"""Entries in the table of preferences: of products with something between, and of one alone."""

_Written = dict[tuple[ir.Value, bool, int, int], ir.Value]
"""Weights of products, whether turned, and size of the kernel -> weights of convolutions."""

_RULE = "products-to-convs"
_MAPPED_BYTES = 1 << 30
"""Weights in files that are more than this stay there: written anew they would be in memory."""

_OPSET = 13  # from which on Squeeze and Unsqueeze take their axes as an input


@dataclass(frozen=True)
class Pointwise(Group):
    """Run products as convolutions where the target is faster at those.

    Behind all passes that change weights, which know products better.
    """

    name: ClassVar[str] = "pointwise"
    last: ClassVar[bool] = True

    def expand(self) -> tuple[Pass, ...]:
        """Return the passes in order: products of the same input are to share its reordering."""
        from burnish.passes.cleanup.cse import CommonSubexpressions
        from burnish.passes.cleanup.dead_code import DeadCode
        from burnish.passes.cleanup.dedup import DeduplicateInitializers

        return (ProductsToConvs(), DeadCode(), DeduplicateInitializers(), CommonSubexpressions())


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
            shared: _Written = {}
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
    shared: _Written,
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
    writer = _Writer(Builder(model.opset_imports), nodes, shared)
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


@dataclass
class _Writer:
    """Writes convolutions for products.

    Attributes:
        op: Builds them.
        between: Nodes that are written anew, and which products they compute.
        shared: Weights already in place.
        made: Weights built here.
    """

    op: Builder
    between: dict[ir.Node, Product | None]
    shared: _Written
    made: _Written = field(default_factory=dict)
    _fronts: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def product(self, product: Product) -> ir.Value:
        """Return the convolution of a product: channels in front."""
        front, kernel = self.enter(product.x), [1, 1]
        if len(product.x.shape or ()) == 2:
            assert front.shape is not None
            kernel = list(front.shape.numpy()[2:])
        weights, bias = self._weights(product, kernel), product.bias
        if bias is not None and len(bias.shape or ()) != 1:
            array = as_array(bias)
            assert array is not None
            bias = self.op.constant(array.reshape(-1))
        return self._inferred(self.op.Conv(front, weights, bias, kernel_shape=kernel))

    def enter(self, value: ir.Value) -> ir.Value:
        """Return a value with its channels in front."""
        if value not in self._fronts:
            self._fronts[value] = self._enter(value)
        return self._fronts[value]

    def _enter(self, value: ir.Value) -> ir.Value:
        front, node = front_of(value), value.producer()
        if front is not None:
            return front
        if node is not None and node in self.between:
            product = self.between[node]
            if product is not None:
                return self.product(product)
            inputs = [
                item if item is None or is_constant(item) else self.enter(item)
                for item in node.inputs
            ]
            return self._inferred(self.op.like(node, *inputs))
        rank = len(value.shape or ())
        if rank == 2:
            return self._inferred(self.op.Unsqueeze(value, np.array([2, 3])))
        if rank == 3:
            value = self._inferred(self.op.Unsqueeze(value, np.array([0])))
        return self._inferred(self.op.Transpose(value, perm=TO_FRONT))

    def leave(self, front: ir.Value, old: ir.Value) -> ir.Value:
        """Return a value with its channels in front as the one that it replaces had them."""
        rank = len(old.shape or ())
        if rank == 2:
            return self._inferred(self.op.Flatten(front, axis=1))
        left = self._inferred(self.op.Transpose(front, perm=TO_BACK))
        return left if rank == 4 else self._inferred(self.op.Squeeze(left, np.array([0])))

    def _inferred(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None
        infer_node(node, self.op.opset_imports)
        return value

    def _weights(self, product: Product, kernel: list[int]) -> ir.Value:
        """Return weights as [outputs, inputs of a pixel, *kernel]."""
        key = (product.weights, product.turned, kernel[0], kernel[1])
        known = self.shared.get(key) or self.made.get(key)
        if known is None:
            tensor = tensor_of(product.weights)
            assert tensor is not None
            sizes = tensor.shape.numpy()
            outputs, inputs = sizes if product.turned else sizes[::-1]
            shape = (outputs, inputs // (kernel[0] * kernel[1]), *kernel)
            known = self.op.constant(_turned(tensor, shape, product.turned))
            self.made[key] = known
        return known


def _turned(tensor: ir.TensorProtocol, shape: tuple[int, ...], turned: bool) -> ir.TensorProtocol:
    """Return the weights of a product as those of a convolution; large ones when they are read."""

    def compute() -> ir.TensorProtocol:
        array = tensor.numpy()
        return ir.tensor(np.ascontiguousarray(array if turned else array.T).reshape(shape))

    if tensor.nbytes < LAZY_BYTES:
        return compute()
    return ir.LazyTensor(compute, tensor.dtype, ir.Shape(shape))
