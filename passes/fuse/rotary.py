# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, as transformers spell it, becomes RotaryEmbedding.

x * cos + [-x2, x1] * sin turns each pair (x1[i], x2[i]) of the two halves of x by an angle. The
tables of cosines and sines hold each angle twice, once for either half; the operator wants it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.context import PassContext
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, Rule, RulePass, rule

_SINCE = 23  # operator set of RotaryEmbedding
_DEPTH = 6


@rule(opset=(_SINCE, None))
def rotary(
    op: Any,
    x: Any,
    cos: Any,
    sin: Any,
    start: Any = const(),
    end: Any = const(),
    first: Any = const(),
    last: Any = const(),
) -> Any:
    """Fuse x * cos + [-x2, x1] * sin, where x1 and x2 are the halves of x, into RotaryEmbedding."""
    x1 = op.Slice(x, first, last, _more=True, _bind="lower")
    x2 = op.Slice(x, start, end, _more=True, _bind="upper")
    turned = op.Concat(op.Neg(x2), x1, axis=lambda axis: axis in (-1, 3))
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary.rewrite
def _(
    op: Builder,
    x: Operand,
    cos: Operand,
    sin: Operand,
    lower: ir.Node,
    upper: ir.Node,
    ctx: PassContext,
) -> Replacement:
    objection = ctx.target.objection_to("RotaryEmbedding", x.dtype)
    if objection is not None:
        return NoMatch(objection)
    if x.dims is None or len(x.dims) != 4 or not isinstance(x.dims[3], int):
        return NoMatch("what is rotated is not of rank 4, or its size is unknown")
    size = x.dims[3]
    if _window(lower, size) != (0, size // 2) or _window(upper, size) != (size // 2, size):
        return NoMatch("the slices are not the two halves")
    tables: list[ir.Value] = []
    for table in (cos, sin):
        angles = _per_token(op, table, size)
        if isinstance(angles, NoMatch):
            return angles
        half = op.Slice(angles, np.array([0]), np.array([size // 2]), np.array([2]))
        # One row for all batches will not do.
        batch = op.Concat(op.Shape(x, start=0, end=1), np.array([1, 1]), axis=0)
        tables.append(op.Expand(half, batch))
    return op.RotaryEmbedding(x, *tables)


def _window(node: ir.Node, size: int) -> tuple[int, int] | None:
    """Return what a Slice of the last axis takes, if its steps are 1."""
    arrays = [as_array(value) for value in node.inputs[1:]]
    if len(arrays) < 3 or any(array is None or array.size != 1 for array in arrays):
        return None
    start, end, axis, *step = (int(array.item()) for array in arrays if array is not None)
    if axis not in (-1, 3) or step not in ([], [1]):
        return None
    begin, stop, _ = slice(start, end).indices(size)
    return begin, stop


def _per_token(op: Builder, table: Operand, size: int) -> ir.Value | NoMatch:
    """Return a table `[batch or 1, tokens, size]` whose two halves are certainly alike."""
    if table.dims is None or len(table.dims) != 4 or table.dims[1] != 1:
        return NoMatch("the angles are not alike for all heads")
    if table.dims[3] != size or not _is_doubled(table.value):
        return NoMatch("the angles of the two halves are not known to be alike")
    return op.Squeeze(table, np.array([1]))  # type: ignore[no-any-return]


def _is_doubled(value: ir.Value | None) -> bool:
    """Whether the two halves of the last axis are certainly alike."""
    array = as_array(value)
    if array is not None:
        lower, upper = np.split(array, 2, axis=-1)
        return bool(np.array_equal(lower, upper))
    for _ in range(_DEPTH):
        node = None if value is None else value.producer()
        if value is None or value.shape is None or node is None or node.domain != "":
            return False
        match node.op_type:
            case "Concat":
                two = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
                return two and node.attributes["axis"].as_int() in (-1, len(value.shape) - 1)
            case "Cos" | "Sin" | "Cast" | "Neg" | "Identity":
                pass
            case "Mul" | "Div" if scalar_of(node.inputs[1]) is not None:
                pass
            case "Unsqueeze" | "Reshape":
                inner = node.inputs[0]
                if inner is None or not inner.shape or inner.shape.dims[-1] != value.shape.dims[-1]:
                    return False
                if not isinstance(value.shape.dims[-1], int):
                    return False
            case _:
                return False
        value = node.inputs[0]
    return False


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Fuse spelled-out rotary position embedding into one operator."""

    name: ClassVar[str] = "fuse-rotary"
    rules: ClassVar[tuple[Rule, ...]] = (rotary,)
