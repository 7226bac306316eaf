# SPDX-License-Identifier: Apache-2.0
"""One size of a shape, which Shape itself can pick."""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.passes.pattern import const
from burnish.passes.rule import Builder, NoMatch, Operand, Replacement, rule


def _vector(index: np.ndarray) -> bool:
    return index.shape == (1,)


@rule(opset=(15, None))
def one_size(op: Any, x: Any, index: Any = const(_vector)) -> Any:
    """Gather(Shape(x), [i]) -> Shape(x, start=i, end=i + 1)."""
    return op.Gather(op.Shape(x, start=0, end=None, _shared=True), index, axis=0)


@one_size.rewrite
def _(op: Builder, x: Operand, index: Operand) -> Replacement:
    if x.rank is None or index.array is None:
        return NoMatch("the rank is unknown")
    axis = int(index.array.item()) % x.rank
    return op.Shape(x, start=axis, end=axis + 1)
