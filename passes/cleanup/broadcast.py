# SPDX-License-Identifier: Apache-2.0
"""What is broadcast to the shape of another operand, though the operator would do that itself."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, rule


def _expanded(op: Any, condition: Any, x: Any) -> Any:
    return op.Expand(condition, op.Shape(x, _bind="shape", _shared=True), _shared=True)


@rule
def expand_before_where(op: Any, condition: Any, x: Any, fill: Any) -> Any:
    """Where(Expand(c, shape of x), x, fill) -> Where(c, x, fill), as masked_fill is written."""
    return op.Where(_expanded(op, condition, x), x, fill, _bind="where")


@expand_before_where.also
def _(op: Any, condition: Any, x: Any, fill: Any) -> Any:
    return op.Where(_expanded(op, condition, x), fill, x, _bind="where")


@expand_before_where.rewrite
def _(op: Builder, condition: Operand, where: ir.Node, shape: ir.Node) -> Replacement:
    if op.attribute(shape, "start") or op.attribute(shape, "end") is not None:
        return NoMatch("not to the whole shape")
    return op.Where(condition, *where.inputs[1:])


RULES: tuple[Rule, ...] = (expand_before_where,)
