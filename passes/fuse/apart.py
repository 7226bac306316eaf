# SPDX-License-Identifier: Apache-2.0
"""Keeps apart what the runtime would fuse by itself into something slower.

ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization when it loads a model. On
CPUs that operator is slower than the two (docs/decisions.md has the figures). A Sum of two is the
same addition, bit for bit, and is not taken for the beginning of that fusion.
"""

from __future__ import annotations

from typing import Any, ClassVar

from burnish.passes.pattern import optional
from burnish.passes.rule import NoMatch, Rule, RulePass, rule

_FUSED = "SkipLayerNormalization"


@rule(may_lose=True)
def add_before_norm(op: Any, a: Any, b: Any, scale: Any, bias: Any = optional()) -> Any:
    """LayerNormalization(Add(a, b)) -> LayerNormalization(Sum(a, b))."""
    total = op.Add(a, b)
    return op.LayerNormalization(total, scale, bias, _bind="norm"), total


@add_before_norm.rewrite
def _(op: Any, ctx: Any, norm: Any, a: Any, b: Any, scale: Any, bias: Any) -> Any:
    if not ctx.target.fuses(_FUSED, a.dtype):
        return NoMatch("the runtime does not fuse them")
    if ctx.target.objection_to(f"microsoft.{_FUSED}", a.dtype) is None:
        return NoMatch("the runtime's fused form is welcome")
    if a.dims is None or a.dims != b.dims:
        return NoMatch("the runtime does not fuse a sum that broadcasts")
    total = op.Sum(a, b)
    return op.like(norm, total, scale, bias), total


class KeepApart(RulePass):
    """Keep apart what the runtime would fuse into something slower on this target."""

    name: ClassVar[str] = "keep-apart"
    rules: ClassVar[tuple[Rule, ...]] = (add_before_norm,)
