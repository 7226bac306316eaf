# SPDX-License-Identifier: Apache-2.0
"""The scores of an attention: the product of queries and keys, its scale and its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from burnish.passes.fuse.attention.mask_kinds import Mask
from burnish.passes.rule import NoMatch

NO_PRODUCT = NoMatch("the scores are not a product")
QUANTIZED = "it is quantized between its two products, where no fused operator rounds"
FUSE_BEFORE = "fuse the float model, and quantize what comes out"


@dataclass(frozen=True)
class Scores:
    """scale * factor * (queries @ keys), capped softly, then the masks in order.

    Attributes:
        queries: `[batch, heads, queries, size]`, or without the heads.
        keys: `[batch, heads, keys, size]` once they are transposed by `keys_perm`, or without
            the heads.
        keys_perm: None if they are as they should be.
        scale: Of the product; what stood on queries and keys is in it.
        factor: One more, `[..., heads, 1, 1]`, or None.
        softcap: c, if the scaled product s became c tanh(s / c); else 0.
        masks: What was added to or put in place of the scores, innermost first.
        shifted: The largest of each row was taken off.
    """

    queries: ir.Value
    keys: ir.Value
    keys_perm: tuple[int, ...] | None
    scale: float = 1.0
    factor: ir.Value | None = None
    softcap: float = 0.0
    masks: tuple[Mask, ...] = ()
    shifted: bool = False


class Read(Protocol):
    """Reads what one operator makes scores of, for those who know the operator."""

    def __call__(self, value: ir.Value, *, uses: int = 1) -> Scores | NoMatch:
        """Return the scores that a value is, if nothing else uses it; `uses` of them may."""
