# SPDX-License-Identifier: Apache-2.0
"""The tables of cosines and sines that a rotation multiplies with: each angle once, for each token.

Exporters hold each angle twice, for the two elements of the pair it turns, and lay tables out to
broadcast over the heads of what is turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.cleanup.arguments import ints_of
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.constant import as_array, scalar_of
from burnish.passes.rule import Builder, NoMatch, Operand

_DEPTH = 8  # operators between a table and where its angles are doubled


@dataclass(frozen=True)
class Angles:
    """One table.

    Attributes:
        value: `[batch or 1, tokens, pairs]`.
        heads: Which axis of what is turned the heads are.
    """

    value: ir.Value
    heads: int


def angles_of(
    op: Builder, table: Operand, x: Operand, *, paired: bool, once: bool = False
) -> Angles | NoMatch:
    """Return a table for x `[batch, heads, tokens, size]` or `[batch, tokens, heads, size]`.

    Args:
        op: Builds what picks each angle once.
        table: Of rank 2 to 4; broadcasts over the heads.
        x: What is turned, of rank 4.
        paired: The two elements of a pair are neighbours, else they are as far apart as halves.
        once: The table holds each angle once already.
    """
    if table.dims is None or x.dims is None or not 2 <= len(table.dims) <= 4:
        return NoMatch("the rank of the angles is unknown")
    size, ones = x.dims[3], (1,) * (4 - len(table.dims))
    dims = (*ones, *table.dims)
    heads = next((a for a in (1, 2) if dims[a] == 1 and same_dim(dims[3 - a], x.dims[3 - a])), None)
    if heads is None:
        return NoMatch("the angles are not alike for all heads")
    if not isinstance(size, int) or (once and dims[3] != size // 2):
        return NoMatch("the angles are not one for each pair")
    if not once and (dims[3] != size or not _is_doubled(table.value, paired)):
        return NoMatch("the angles of the two halves are not known to be alike")
    whole = table.value
    if len(table.dims) == 4:
        whole = _squeezed(op, whole, heads)
    elif len(table.dims) == 3 and heads == 2:  # [tokens, 1, size]
        whole = op.Transpose(whole, perm=[1, 0, 2])
    elif len(table.dims) == 2:
        whole = op.Unsqueeze(whole, np.array([0]))
    if once:
        return Angles(whole, heads)
    begin, axis = np.array([0]), np.array([2])
    if paired:
        single = op.Slice(whole, begin, np.array([size]), axis, np.array([2]))
    else:
        single = op.Slice(whole, begin, np.array([size // 2]), axis)
    return Angles(single, heads)


def _squeezed(op: Builder, table: ir.Value, axis: int) -> ir.Value:
    node = table.producer()
    if node is not None and node.op_type == "Unsqueeze" and ints_of(node, "axes", 1) == (axis,):
        assert node.inputs[0] is not None
        return node.inputs[0]
    return op.Squeeze(table, np.array([axis]))  # type: ignore[no-any-return]


def _is_doubled(value: ir.Value | None, paired: bool) -> bool:
    """Whether each angle certainly stands twice along the last axis."""
    for _ in range(_DEPTH):
        array = as_array(value)
        if array is not None:
            halves = (array[..., ::2], array[..., 1::2]) if paired else np.split(array, 2, axis=-1)
            return bool(np.array_equal(*halves))
        node = None if value is None else value.producer()
        if value is None or value.shape is None or node is None or node.domain != "":
            return False
        last = value.shape.dims[-1]
        match node.op_type:
            case "Concat" if not paired:
                two = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
                return two and node.attributes["axis"].as_int() in (-1, len(value.shape) - 1)
            case "Reshape" if paired and _merges_pairs(node):
                return True
            case "Cos" | "Sin" | "Cast" | "Neg" | "Identity":
                pass
            case "Mul" | "Div" if scalar_of(node.inputs[1]) is not None:
                pass
            case "Transpose" if node.attributes["perm"].as_ints()[-1] == len(value.shape) - 1:
                pass
            case "Slice":
                axes = ints_of(node, "axes", 3)
                if axes is None or {-1, len(value.shape) - 1} & set(axes):
                    return False
            case "Unsqueeze" | "Reshape":
                inner = node.inputs[0]
                if inner is None or not inner.shape or inner.shape.dims[-1] != last:
                    return False
                if not isinstance(last, int):
                    return False
            case _:
                return False
        value = node.inputs[0]
    return False


def _merges_pairs(reshape: ir.Node) -> bool:
    """Whether a Reshape makes `[..., 2n]` of `[..., n, 2]`, whose last axis repeats one value."""
    stacked, merged = reshape.inputs[0], reshape.outputs[0]
    if stacked is None or not stacked.shape or not merged.shape or stacked.shape[-1] != 2:
        return False
    count, maker = stacked.shape[-2], stacked.producer()
    if not isinstance(count, int) or merged.shape[-1] != 2 * count or maker is None:
        return False
    single = maker.inputs[0]
    if single is None or not single.shape or single.shape[-1] != 1:
        return False
    if maker.op_type == "Concat":
        return len(maker.inputs) == 2 and maker.inputs[1] is single
    return maker.op_type in ("Expand", "Tile") and len(single.shape) == len(stacked.shape)
