# SPDX-License-Identifier: Apache-2.0
"""Convolutions written for products: the map that is entered and left, and the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant, tensor_of
from burnish.passes.fuse.product.chain import TO_BACK, TO_FRONT, Product, front_of
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.fuse.sizes.inferred import inferred
from burnish.passes.rule import Builder

Written = dict[tuple[ir.Value, bool, int, int], ir.Value]
"""Weights of products, whether turned, and size of the kernel -> weights of convolutions."""


@dataclass
class ConvWriter:
    """Writes convolutions for products.

    Attributes:
        op: Builds them.
        between: Nodes that are written anew, and which products they compute.
        shared: Weights already in place.
        made: Weights built here.
    """

    op: Builder
    between: dict[ir.Node, Product | None]
    shared: Written
    made: Written = field(default_factory=dict)
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
        return inferred(self.op, self.op.Conv(front, weights, bias, kernel_shape=kernel))

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
            return inferred(self.op, self.op.like(node, *inputs))
        rank = len(value.shape or ())
        if rank == 2:
            return inferred(self.op, self.op.Unsqueeze(value, np.array([2, 3])))
        if rank == 3:
            value = inferred(self.op, self.op.Unsqueeze(value, np.array([0])))
        return inferred(self.op, self.op.Transpose(value, perm=TO_FRONT))

    def leave(self, front: ir.Value, old: ir.Value) -> ir.Value:
        """Return a value with its channels in front as the one that it replaces had them."""
        rank = len(old.shape or ())
        if rank == 2:
            return inferred(self.op, self.op.Flatten(front, axis=1))
        left = inferred(self.op, self.op.Transpose(front, perm=TO_BACK))
        return left if rank == 4 else inferred(self.op, self.op.Squeeze(left, np.array([0])))

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
