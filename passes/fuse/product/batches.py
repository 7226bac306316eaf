# SPDX-License-Identifier: Apache-2.0
"""Products of matrices whose two batch axes were made one, and are two again behind.

So `torch.bmm` is exported, which takes three axes; the scores and the values of an attention, say.
MatMul takes any number of axes in front.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.edit import use_count
from burnish.passes.fuse.attention.heads import SWAP_LAST, apart
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


@rule(opset=(13, None))
def product_of_batches(op: Any, a: Any, b: Any, shape: Any) -> Any:
    """Reshape(MatMul(Reshape(a), Reshape(b))) -> MatMul(a, b), where a and b have four axes."""
    return op.Reshape(op.MatMul(a, b), shape, _bind="split")


@product_of_batches.rewrite
def _(op: Builder, a: Operand, b: Operand, split: ir.Node) -> Replacement:
    first, second = _apart(a.value), _apart(b.value)
    if first is None or second is None:
        return NoMatch("not both are known to be batches put one behind another")
    result = split.outputs[0].shape
    left, right = first[0].shape, second[0].shape
    if result is None or left is None or right is None or len(result) != 4:
        return NoMatch("the result has not four axes, or they are unknown")
    last = right[2 if second[1] else 3]
    if not all(same_dim(left[i], right[i]) and same_dim(left[i], result[i]) for i in (0, 1)):
        return NoMatch("the batches are not known to be the same")
    if not (same_dim(left[3 if first[1] else 2], result[2]) and same_dim(last, result[3])):
        return NoMatch("the result is not known to be split as it was")
    return op.MatMul(*(_turned(op, *item) for item in (first, second)))


def _apart(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """Return the four axes that three were made of, and whether the last two are swapped since."""
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and use_count(value) == 1:
        inner = node.inputs[0]
        if inner is None or ints_of(node, "perm", 1) != (0, 2, 1):
            return None
        whole, turned = apart(inner), True
    else:
        whole, turned = apart(value), False
    return None if whole is None else (whole, turned)


def _turned(op: Builder, value: ir.Value, turned: bool) -> ir.Value:
    return op.Transpose(value, perm=SWAP_LAST) if turned else value
