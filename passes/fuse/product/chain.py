# SPDX-License-Identifier: Apache-2.0
"""Products with constant weights, and what stands between them and works on each number alone.

MatMul, Add, Gelu, MatMul, Add          2 MatMul, Sigmoid, 2 Mul, MatMul
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from burnish.passes.constant import as_array, is_constant, tensor_of
from burnish.passes.edit import use_count
from burnish.passes.fuse.conv.blocked import ACTIVATIONS

ELEMENTWISE = ACTIVATIONS | {"QuickGelu"}
"""Functions of one number that the runtime has in its blocked layout, next to Mul."""

TO_FRONT, TO_BACK = (0, 3, 1, 2), (0, 2, 3, 1)
"""Orders of four axes that bring the last one, of channels, in front, and back."""

_MOST = 12
"""Nodes between products that are looked at together."""


@dataclass(frozen=True)
class Product:
    """x W + b with constant weights.

    Attributes:
        nodes: What computes it; the first one gives the result.
        x: What is multiplied.
        weights: [inputs, outputs], or turned.
        bias: [outputs], None if there is none.
        turned: Whether weights are [outputs, inputs].
    """

    nodes: tuple[ir.Node, ...]
    x: ir.Value
    weights: ir.Value
    bias: ir.Value | None = None
    turned: bool = False

    @property
    def result(self) -> ir.Value:
        """The value it gives."""
        return self.nodes[0].outputs[0]


def product_of(node: ir.Node) -> Product | None:
    """Read MatMul, Gemm, or the Add of a bias to a MatMul that has no other reader."""
    if node.domain != "":
        return None
    if node.op_type == "Add":
        for inner, bias in (node.inputs, node.inputs[::-1]):
            maker = inner.producer() if inner is not None and _has_one_user(inner) else None
            found = product_of(maker) if maker is not None and maker.op_type == "MatMul" else None
            if found is not None and _is_vector(bias, found.weights.shape, found.x):
                return Product((node, *found.nodes), found.x, found.weights, bias)
        return None
    if node.op_type not in ("Gemm", "MatMul"):
        return None
    x, weights, *rest = node.inputs
    tensor = tensor_of(weights)
    if x is None or weights is None or tensor is None or len(tensor.shape) != 2:
        return None
    if node.op_type == "MatMul":
        return Product((node,), x, weights)
    numbers = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
    turned = bool(node.attributes.get_int("transB", 0))
    shape = ir.Shape(reversed(tensor.shape.numpy())) if turned else weights.shape
    bias = rest[0] if rest else None
    plain = numbers == (1.0, 1.0) and not node.attributes.get_int("transA", 0)
    if not plain or not (bias is None or _is_vector(bias, shape, x)):
        return None
    return Product((node,), x, weights, bias, turned)


def _is_vector(bias: ir.Value | None, weights: ir.Shape | None, x: ir.Value) -> bool:
    """Whether a value is a constant for each output channel, and adds no axes to those of x."""
    tensor = tensor_of(bias)
    if tensor is None or weights is None or x.shape is None or not tensor.shape:
        return False
    whole = tensor.shape[-1] == tensor.size == weights[-1]
    return whole and len(tensor.shape) <= len(x.shape)


def _has_one_user(value: ir.Value) -> bool:
    return use_count(value) == 1 and not value.is_graph_output()


def beside(product: Product) -> list[Product]:
    """Return the products of the same input as one, that one too, with their biases.

    Those of subgraphs are not beside it: what they compute may be computed often, or never.
    """
    graph = product.nodes[0].graph
    readers = (node for node in product.x.consumers() if node.graph is graph)
    found = [_with_bias(item) for item in map(product_of, readers) if item is not None]
    return [item for item in found if item.x is product.x]


def _with_bias(product: Product) -> Product:
    users = product.result.consumers() if _has_one_user(product.result) else ()
    for user in users:
        whole = product_of(user)
        if whole is not None and product.nodes[0] in whole.nodes:
            return whole
    return product


def waits(product: Product) -> bool:
    """Whether a product that begins a chain is to be looked at with the next one of it."""
    if front_of(product.x) is not None or between([product]):
        return False
    pending, seen = [product.result], 0
    while pending and seen < _MOST:
        value, seen = pending.pop(), seen + 1
        for user in value.consumers():
            found = product_of(user)
            if found is not None and found.x is value:
                return product.nodes[0] in between(beside(found))
            if found is not None or is_elementwise(user):
                pending.append(user.outputs[0])
    return False


def between(products: Sequence[Product]) -> dict[ir.Node, Product | None]:
    """Return what computes the input of products from products, or from channels in front.

    Nothing, where it comes from elsewhere too, another graph among that, or others read what is in
    between.
    """
    value, readers = products[0].x, {item.nodes[-1] for item in products}
    graph = products[0].nodes[0].graph
    found: dict[ir.Node, Product | None] = {}
    pending, ends = [value], 0
    while pending:
        current = pending.pop()
        node = current.producer()
        if front_of(current) is not None:
            ends += 1
            continue
        if node is None or node.graph is not graph or len(found) > _MOST:
            return {}
        if node in found:
            continue
        product = product_of(node)
        if product is not None:
            found |= {node: product} | dict.fromkeys(product.nodes[1:])
            ends += 1
        elif is_elementwise(node):
            found[node] = None
            pending += [item for item in node.inputs if item is not None and not is_constant(item)]
        else:
            return {}
    alone = all(
        not node.outputs[0].is_graph_output()
        and all(user in found or user in readers for user in node.outputs[0].consumers())
        for node in found
    )
    return found if ends and alone else {}


def is_elementwise(node: ir.Node) -> bool:
    """Whether the runtime has a node in the blocked layout, and it works on each number alone."""
    if node.op_type == "Mul" and node.domain == "":
        left, right = node.inputs
        if left is None or right is None or is_constant(left) or is_constant(right):
            return False
        # Of rows, one may have been a larger map than the other.
        return left.shape is not None and left.shape == right.shape and len(left.shape) > 2
    rest = all(item is None or is_constant(item) for item in node.inputs[1:])
    return node.op_type in ELEMENTWISE and node.domain in ("", "com.microsoft") and rest


def front_of(value: ir.Value) -> ir.Value | None:
    """Return the value with its channels in front, as four axes, if it was made from that."""
    node = value.producer()
    if node is None or value.shape is None or node.domain != "":
        return None
    before, rank = node.inputs[0] if node.inputs else None, len(value.shape)
    if rank == 2:
        shape = None if before is None else before.shape
        one = shape is not None and len(shape) == 4 and shape[0] == value.shape[0] == 1
        flat = node.op_type in ("Flatten", "Reshape", "Squeeze")
        return before if one and flat and shape is not None and shape.is_static() else None
    if rank == 3:
        axes = as_array(node.inputs[1]) if node.op_type == "Squeeze" and node.inputs[1:] else None
        node = before.producer() if before is not None and axes is not None else None
        if node is None or axes is None or axes.tolist() != [0]:
            return None
    elif rank != 4:
        return None
    turned = node.op_type == "Transpose" and node.domain == ""
    return node.inputs[0] if turned and node.attributes.get_ints("perm") == TO_BACK else None


def makes_map_of_rows(node: ir.Node) -> bool:
    """Whether Unsqueeze or Squeeze stands where rows become the pixels of a map, or again rows.

    The runtime takes the Transpose beside it for the entrance into its layout, or the way out.
    """
    if node.domain != "" or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    if node.op_type == "Squeeze":
        shape = node.outputs[0].shape
        return shape is not None and len(shape) == 3 and front_of(node.outputs[0]) is not None
    axes = as_array(node.inputs[1]) if node.op_type == "Unsqueeze" else None
    users = node.outputs[0].consumers()
    return axes is not None and axes.tolist() == [0] and any(map(_turns_to_front, users))


def _turns_to_front(node: ir.Node) -> bool:
    turned = node.op_type == "Transpose" and node.domain == ""
    return turned and node.attributes.get_ints("perm") == TO_FRONT
