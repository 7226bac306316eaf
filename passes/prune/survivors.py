# SPDX-License-Identifier: Apache-2.0
"""Which values of the whole model are left in one that was cut, and as what."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.prune.cut import Cut
from burnish.passes.sketch import Array


class Survivors:
    """What is left of the whole model's values, over one or more cuts.

    Attributes:
        left: Name of a value -> axis -> indices in the whole model, of the axes that were cut.
        instead: Names of values that are read instead of some that are gone.
    """

    def __init__(self) -> None:
        self.left: dict[str, dict[int, NDArray[np.int64]]] = {}
        self.instead: set[str] = set()

    def cut(self, cut: Cut) -> None:
        """Note what is about to be cut."""
        for (value, axis), kept in cut.kept.items():
            if isinstance(value, ir.Value) and value.name:
                axes = self.left.setdefault(value.name, {})
                axes[axis] = axes.get(axis, np.arange(kept.size))[kept]

    def of(self, name: str, array: Array) -> Array:
        """Return what is left of an array of the whole model."""
        for axis, indices in self.left.get(name, {}).items():
            array = array.take(indices, axis)
        return array
