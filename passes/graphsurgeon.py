# SPDX-License-Identifier: Apache-2.0
"""Run any onnx-graphsurgeon function, `gs.Graph -> gs.Graph` or in place, as a pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.foreign import run_foreign
from burnish.passes.options import option
from burnish.passes.reference import reference_to, resolve


@dataclass(frozen=True)
class GraphSurgeon(Pass):
    """Run a graphsurgeon function.

    What a `gs.Graph` has no place for (metadata, doc strings, types that are no tensors, functions'
    value types, ...) is kept aside and put back by name. Weights are read only if the function
    reads them, and only those it writes to are replaced.

    Raises:
        InputError: the function cannot be found, raises, or returns something else than a graph.
    """

    name: ClassVar[str] = "graphsurgeon"
    function: str = option("", help="the function to run, as module:name")
    call: Callable[[Any], Any] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the function."""
        super().__post_init__()
        if self.call is None:
            if not self.function:
                raise InputError("option 'function' is needed", hint="function=module:name")
            object.__setattr__(self, "call", resolve(self.function))
        if not callable(self.call):
            raise InputError(f"{self.function} is not a function")

    @property
    def rule(self) -> str:
        """Name of the one rewrite: the function's."""
        return self.function.rpartition(":")[2].strip("<>")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Run the function on a graphsurgeon view of the model."""
        from burnish.passes.gsbridge import through_graphsurgeon

        call = self.call
        assert call is not None

        def transform(copy: ir.Model) -> ir.Model | None:
            return through_graphsurgeon(copy, self.function, call)

        run_foreign(self.rule, transform, model, ctx)


def graphsurgeon(function: Callable[[Any], Any]) -> GraphSurgeon:
    """Return a pass that runs a graphsurgeon function.

        burnish.optimize("m.onnx", [graphsurgeon(replace_swish), "fuse"])

    The text form of the pass can be parsed if the function lives at the top of a module.
    """
    return GraphSurgeon(_text_of(function), function)


def _text_of(function: Callable[[Any], Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return reference_to(function) or f"<{getattr(function, '__module__', '')}:{name}>"
