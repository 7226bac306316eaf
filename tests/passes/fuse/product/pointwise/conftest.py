# SPDX-License-Identifier: Apache-2.0
"""Models of products written as text, in parts, and a target that wants them all convolved."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import onnx_ir as ir

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.product.pointwise.products_to_convs import ALONE

Freeze = Callable[..., ir.Model]

# As if one product alone were worth it, which is otherwise measured.
EAGER = dataclasses.replace(
    Target.parse("cpu"),
    preferences=(Preference(ALONE, True), *Target.parse("cpu").preferences),
)
CONSTANTS = "float[8,12] w, float[12,8] u, float[12] b, float[1,1,8] c, float[8,12] g"
MLP = "m = MatMul(x, w)  h = Add(m, b)  a = Gelu(h)  n = MatMul(a, u)  y = Add(c, n)"


def products(
    freeze: Freeze, body: str, *, x: str = "float[B,S,8]", y: str = "float[B,S,N]", opset: int = 21
) -> ir.Model:
    """Return a model that computes `y` from `x` and `CONSTANTS`."""
    return freeze(f"g ({x} x, {CONSTANTS}) => ({y} y) {{ {body} }}", opset=opset)


def counts(model: ir.Model) -> Counter[str]:
    """Return how many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph)
