# SPDX-License-Identifier: Apache-2.0
"""How good a quantized model is: by the user's metric, or by agreement with the float model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.quant.recipe import Recipe
from burnish.passes.quant.search.sensitivity import Likeness, Reference, Run, held_out, not_held_out
from burnish.passes.whole import open_session
from burnish.references import resolve_function


@dataclass
class Judge:
    """Scores models: by the user's function, or by agreement with the float model.

    Attributes:
        calibration: The samples that ranges may be taken from.
        reference: What the float model gives on others; None without samples.
        function: The user's.
        measure: What the score is, in words.
    """

    calibration: CalibrationSource | None
    reference: Reference | None
    function: Callable[[Run], float] | None
    measure: str

    @staticmethod
    def of(recipe: Recipe, model: ir.Model, ctx: PassContext) -> Judge:
        """Make the judge that a recipe asks for, and set samples aside for it.

        Raises:
            InputError: there is neither a function nor a sample.
        """
        function = None if recipe.eval is None else resolve_function(recipe.eval)
        source = ctx.calibration
        if source is None:
            if function is None:
                raise InputError(
                    "max_drop has nothing to judge by",
                    hint="give sample inputs with --calib, or a metric with --eval",
                )
            return Judge(None, None, function, str(recipe.eval))
        kept = held_out(source)
        if kept:
            source = CalibrationSource.from_iterable(
                lambda: not_held_out(ctx.calibration or ()), model.graph.inputs
            )
        else:
            ctx.warn(
                "too few samples to hold some out: accuracy is judged on those calibrated with"
            )
            kept = list(source)
        with open_session(model) as session:
            reference = Reference(session.run, kept)
        name = recipe.eval or f"cosine to the float outputs on {len(kept)} held-out samples"
        return Judge(source, reference, function, name)

    def score(self, model: ir.Model) -> float:
        """Score a model; higher is better.

        Raises:
            InputError: the user's function fails or gives no number.
        """
        with open_session(model) as session:
            if self.function is None:
                assert self.reference is not None
                return self.reference.compare(session.run).cosine
            try:
                found = float(self.function(session.run))
            except Exception as error:  # it is the user's, and may raise anything
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise InputError(
                    f"{self.measure} failed: {said}",
                    hint="it gets a function that runs the model on a dict of its inputs, and "
                    "returns a number",
                ) from error
        if not math.isfinite(found):
            raise InputError(f"{self.measure} gave {found}", hint="it has to return a number")
        return found

    def likeness(self, model: ir.Model) -> Likeness | None:
        """Compare a model with the float model, if there are samples."""
        if self.reference is None:
            return None
        with open_session(model) as session:
            return self.reference.compare(session.run)
