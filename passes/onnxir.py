# SPDX-License-Identifier: Apache-2.0
"""Run any pass written for onnx-ir as a pass of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.foreign import ForeignPass, blaming, run_foreign
from burnish.passes.options import option


@dataclass(frozen=True)
class OnnxIR(ForeignPass):
    """Run an `onnx_ir.passes.PassBase`: a class, an instance, or a function that returns one."""

    name: ClassVar[str] = "onnx-ir"
    pass_: str = option("", help="the pass, as module:Class")

    def accept(self, item: Any) -> Any:
        """Return an instance of the pass."""
        made = item() if callable(item) and not isinstance(item, ir.passes.PassBase) else item
        if not isinstance(made, ir.passes.PassBase):
            raise InputError(f"{self.text} is not an onnx_ir pass but a {type(made).__name__}")
        return made

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Run the pass on a copy of the model."""

        def transform(copy: ir.Model) -> ir.Model:
            with blaming(f"onnx-ir pass {self.text}"):
                result: ir.Model = self.item(copy).model
                return result

        run_foreign(self.rule, transform, model, ctx)


def onnxir(item: Callable[[], ir.passes.PassBase] | ir.passes.PassBase) -> OnnxIR:
    """Return a pass that runs an onnx-ir pass.

    burnish.optimize("m.onnx", [onnxir(LiftConstantsToInitializersPass), "fuse"])
    """
    return OnnxIR.of(item)
