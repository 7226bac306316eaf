# SPDX-License-Identifier: Apache-2.0
"""One spelling for a size, in models that ask for sizes of what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.passes.cleanup import Cleanup
from burnish.passes.context import PassContext
from burnish.passes.fuse.attention.opset import has_attention
from burnish.passes.fuse.sizes.arithmetic import size_or_one, size_times_over
from burnish.passes.fuse.sizes.before import size_before_attention, size_before_transpose
from burnish.passes.fuse.sizes.of_input import size_of_input
from burnish.passes.fuse.sizes.symbolic_dims import count_unknown, inferred_again
from burnish.passes.rewrite import apply_rules
from burnish.passes.rule import Rule, RulePass
from burnish.passes.shapes import infer_shapes

RULES = (
    size_of_input,
    size_before_transpose,
    size_before_attention,
    size_or_one,
    size_times_over,
)


@dataclass(frozen=True)
class KnownSizes(RulePass):
    """Spell sizes in one way in models that ask for them, so that all shapes are inferred."""

    name: ClassVar[str] = "known-sizes"
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Rewrite all graphs and fold what is known by that, while it makes sizes known."""
        left = None
        while has_attention(model) or _asks_for_sizes(model):
            with inferred_again(model):
                apply_rules(model, self.rules, ctx)
            infer_shapes(model)
            if left == (left := count_unknown(model)) or not left:
                return
            Cleanup().run(model, ctx)


def _asks_for_sizes(model: ir.Model) -> bool:
    """Whether there is a Shape of a value that is computed."""
    return any(
        node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].producer()
        for node in model.graph
    )
