# SPDX-License-Identifier: Apache-2.0
"""Sizes that are computed as scalars, and become vectors of one element at the end.

Exporters take a size out of a shape, compute with it, and put it back into a shape. Computed as
vectors of one element, it needs neither the Squeeze in front nor the Unsqueeze behind.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.constant import as_array
from burnish.passes.edit import use_count
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, rule

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_DEPTH = 8  # operators in a row that are looked at


@rule
def vector_of_size(op: Any, a: Any, b: Any) -> Any:
    """Unsqueeze(a * b) -> a * b of vectors, where a scalar was one; also + - /, and Reshape."""
    size = op.one_of(*_ARITHMETIC)(a, b, _bind="size")
    return op.one_of("Unsqueeze", "Reshape")(size, _more=True, _bind="back")


@vector_of_size.rewrite
def _(op: Builder, a: Operand, b: Operand, size: ir.Node, back: ir.Node) -> Replacement:
    if a.dims != () or b.dims != ():
        return NoMatch("not of scalars")
    name = "axes" if back.op_type == "Unsqueeze" else ""
    if ints_of(back, name, 1) not in ((0,), (-1,), (1,)) or Operand(back.outputs[0]).rank != 1:
        return NoMatch("not to a vector of one element")
    vector = _vector(op, size.outputs[0], back, _DEPTH)
    return NoMatch("not computed from a vector of one element alone") if vector is None else vector


def _vector(op: Builder, value: ir.Value, reader: ir.Node, depth: int) -> ir.Value | None:
    """Return a scalar as a vector of one element, by no more operators than before; or None.

    A constant stays as it is: the other operand gives the axis. What is gathered may become a
    vector for others too, with the same Gather then.
    """
    node = value.producer()
    if node is None or node.domain != "" or depth == 0 or node.inputs[0] is None:
        return None
    x = node.inputs[0]
    if node.op_type == "Squeeze":
        return x if Operand(x).dims == (1,) else None
    if value.is_graph_output():
        return None
    if node.op_type == "Gather":
        if any(user.op_type != "Unsqueeze" for user, _ in value.uses() if user is not reader):
            return None
        index = as_array(node.inputs[1])
        if index is None or index.ndim != 0 or Operand(x).rank != 1:
            return None
        return op.Gather(x, index.reshape(1), axis=0)  # type: ignore[no-any-return]
    if node.op_type not in _ARITHMETIC or use_count(value) > 1:
        return None
    sides = [
        item if item is None or as_array(item) is not None else _vector(op, item, node, depth - 1)
        for item in node.inputs
    ]
    constant = all(as_array(item) is not None for item in node.inputs)  # which is for `fold`
    return None if constant or None in sides else op.like(node, *sides)


RULES: tuple[Rule, ...] = (vector_of_size,)
