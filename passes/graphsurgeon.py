# SPDX-License-Identifier: Apache-2.0
"""Run any onnx-graphsurgeon function, `gs.Graph -> gs.Graph` or in place, as a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.foreign import ForeignPass, run_foreign
from burnish.passes.options import option


@dataclass(frozen=True)
class GraphSurgeon(ForeignPass):
    """Run a graphsurgeon function.

    What a `gs.Graph` has no place for (metadata, doc strings, types other than tensors, defaults of
    inputs, ...) is kept aside and put back by name. Weights are read only if the function reads
    them, and only those it writes to are replaced.
    """

    name: ClassVar[str] = "graphsurgeon"
    function: str = option("", help="the function, as module:name")

    def accept(self, item: Any) -> Any:
        """Return the function."""
        if not callable(item):
            raise InputError(f"{self.text} is a {type(item).__name__}, not a function")
        return item

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Run the function on a graphsurgeon view of the model."""
        from burnish.passes.gsbridge import through_graphsurgeon

        def transform(copy: ir.Model) -> ir.Model | None:
            return through_graphsurgeon(copy, self.text, self.item)

        run_foreign(self.rule, transform, model, ctx)


def graphsurgeon(function: Callable[[Any], Any]) -> GraphSurgeon:
    """Return a pass that runs a graphsurgeon function.

    burnish.optimize("m.onnx", [graphsurgeon(replace_swish), "fuse"])
    """
    return GraphSurgeon.of(function)
