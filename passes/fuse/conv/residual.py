# SPDX-License-Identifier: Apache-2.0
"""A residual that other operators made enters the blocked layout once, with what is added to it.

Behind a gate, a residual x leaves the runtime's blocked layout (NCHWc). It enters it again for the
convolutions of x, but for x + f(x) what these made leaves it, is added, and the sum enters it. A
MaxPool over one pixel takes x in for both; then the runtime adds x in the last convolution itself:

    x, Add(x, Conv(... Conv(x)))  ->  p = MaxPool(x), Add(p, Conv(... Conv(p)))

Ratios on ONNX Runtime 1.31.1, AVX-512, one thread, in turns: PP-OCRv6 det 1.007 to 1.015 (five,
the largest of 48x120x120), rec 1.006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.edit import Names, names_of, use_count
from burnish.passes.fuse.conv.blocked import ACTIVATIONS, block_size, is_blocked_conv
from burnish.passes.shapes import infer_shapes

PREFERENCE = "Conv-residual"

_RULE = "blocked-residual"

_OUTSIDE = frozenset(
    {"DepthToSpace", "Gather", "InstanceNormalization", "LayerNormalization", "Pad", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"}
)
"""What the runtime never runs in blocks, apart from Mul and Add that broadcast."""


@dataclass(frozen=True)
class BlockResiduals(Pass):
    """Take residuals from outside the runtime's blocked layout in once, where they are added."""

    name: ClassVar[str] = "block-residuals"
    rule_names: ClassVar[tuple[str, ...]] = (_RULE,)
    last: ClassVar[bool] = True

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Look at each addition."""
        size = block_size(ctx.target)
        if size is None or ctx.target.objection_to(PREFERENCE, ir.DataType.FLOAT) is not None:
            return
        infer_shapes(model)
        names = names_of(model.graph)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                if node.domain == "" and node.op_type == "Add":
                    _look_at(node, names, ctx, size)


def _look_at(add: ir.Node, names: Names, ctx: PassContext, size: int) -> None:
    left, right = add.inputs
    if left is None or right is None:
        return
    x = right if _is_branch(left, right) else left if _is_branch(right, left) else None
    if x is None:
        return
    reason = _objection(x, add, size)
    if reason is not None:
        ctx.refuse(_RULE, add, reason)
        return
    with ctx.rewrite(_RULE, add) as go:
        if go:
            producer, graph = x.producer(), add.graph
            assert producer is not None
            assert graph is not None
            convs = (node for node in x.consumers() if node.graph is graph)
            users = dict.fromkeys([*filter(is_blocked_conv, convs), add])
            pool = ir.node("MaxPool", [x], {"kernel_shape": [1, 1]})
            entered = pool.outputs[0]
            entered.name = names.fresh(f"{x.name}_in_blocks")
            entered.shape, entered.type = x.shape, x.type
            for user in users:
                for at, value in enumerate(user.inputs):
                    if value is x:
                        user.replace_input_with(at, entered)
            graph.insert_after(producer, pool)


def _is_branch(made: ir.Value, x: ir.Value) -> bool:
    """Whether convolutions in blocks that keep the size of a map make one value of another."""
    node, convs = made.producer(), 0
    while node is not None and use_count(made) == 1 and not made.is_graph_output():
        if is_blocked_conv(node) and _keeps_size(node):
            convs += 1
        elif node.domain != "" or node.op_type not in ACTIVATIONS or not convs:
            return False  # the last one is a convolution: it is what adds
        first = node.inputs[0]
        assert first is not None
        if first is x:
            return is_blocked_conv(node)
        made, node = first, first.producer()
    return False


def _keeps_size(conv: ir.Node) -> bool:
    weights, attributes = conv.inputs[1], conv.attributes
    assert weights is not None
    assert weights.shape is not None
    kernel = weights.shape.numpy()[2:]
    mode = attributes.get_string("auto_pad", "NOTSET")
    pads = attributes.get_ints("pads", [0] * 2 * len(kernel))
    steps = attributes.get_ints("dilations", [1] * len(kernel))
    if any(stride != 1 for stride in attributes.get_ints("strides", [])):
        return False
    return mode in ("SAME_UPPER", "SAME_LOWER") or (
        mode == "NOTSET"
        and all(
            pads[axis] + pads[axis + len(kernel)] == (length - 1) * step
            for axis, (length, step) in enumerate(zip(kernel, steps, strict=True))
        )
    )


def _objection(x: ir.Value, add: ir.Node, size: int) -> str | None:
    producer = x.producer()
    if producer is None or producer.graph is not add.graph or not _is_outside(producer, x):
        return "the residual is in the layout already, or not known to be outside"
    channels = None if x.shape is None or len(x.shape) != 4 else x.shape[1]
    if not isinstance(channels, int) or channels % size:
        return "the channels are no whole blocks"
    total = add.outputs[0]
    if total.is_graph_output() or not any(map(is_blocked_conv, total.consumers())):
        return "no convolution follows"
    return None


def _is_outside(node: ir.Node, x: ir.Value) -> bool:
    if node.domain == "" and node.op_type in ("Mul", "Add"):
        return any(value is not None and value.shape != x.shape for value in node.inputs)
    return node.domain == "" and node.op_type in _OUTSIDE
