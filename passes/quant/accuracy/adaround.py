# SPDX-License-Identifier: Apache-2.0
"""Learned rounding for int8: weights move onto the grid on which `quant` will round them.

`burnish.passes.reconstruct.rounding` decides for each weight whether it goes up or down. What is
written are float weights that are whole multiples of the scale that static and dynamic int8 will
find for them, so that those round them to just these integers. The largest of each channel stays
what it is, since it makes the scale. A bias takes back the mean of the error; where there is one,
weights are chosen by what remains of the error then (the centred X X^T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.scheme import weight_bits, weight_params
from burnish.passes.quant.weighted import WEIGHTED
from burnish.passes.reconstruct.judge import WORSE, Account, Verdict
from burnish.passes.reconstruct.layer import Layer, bias_place, layers_of, shift_bias
from burnish.passes.reconstruct.observe import Evidence, observe
from burnish.passes.reconstruct.rounding import SWEEPS, round_weights
from burnish.passes.shapes import infer_shapes
from burnish.passes.sketch import Array


@dataclass(frozen=True)
class AdaRound(Pass):
    """Round int8 weights so that outputs, not weights, come nearest to the float model: AdaRound.

    Run it before `quant`, behind all that changes weights. Where the output error does not fall on
    samples held out, a layer is left to be rounded plainly.
    """

    name: ClassVar[str] = "adaround"
    rule_names: ClassVar[tuple[str, ...]] = ("adaround",)
    lossless: ClassVar[bool] = False

    per_channel: bool = option(True, help="as `quant` will be told")
    sweeps: int = option(SWEEPS, help="most sweeps over the weights of a layer", min=1)
    ops: tuple[str, ...] = option(WEIGHTED, help="operators to round", choices=WEIGHTED)
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes to leave alone")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Observe inputs and round, layer by layer.

        Raises:
            InputError: there is no calibration data, or it does not fit the model.
        """
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        layers = []
        for layer in layers_of(
            model,
            lambda node, why: ctx.refuse("adaround", node, why),
            ops=self.ops,
            exclude=self.exclude,
        ):
            if layer.shared:
                ctx.refuse("adaround", layer.node, "its weights are used by other operators too")
            else:
                layers.append(layer)
        if not layers:
            return
        if ctx.calibration is None:
            raise InputError(
                "adaround needs calibration data", hint="give sample inputs with --calib"
            )
        account = Account()
        bits = weight_bits(ctx.target.int8_accumulator_bits)
        seen = observe(model.clone(), layers, ctx.calibration, progress=ctx.progress)
        for layer, evidence in ctx.progress(seen, len(layers), "adaround"):
            rounded, shift, verdict = self._round(layer, evidence, bits)
            if not account.add(layer.name, verdict):
                ctx.refuse("adaround", layer.node, WORSE)
                continue
            with ctx.rewrite("adaround", layer.node) as go:
                if go:
                    layer.replace(rounded)
                    if shift is not None:
                        shift_bias(layer, shift)
        ctx.details["adaround"] = account.summary()

    def _round(
        self, layer: Layer, evidence: Evidence, bits: int
    ) -> tuple[Array, Array | None, Verdict]:
        """Return weights on the grid, what to add to the bias, and how that does."""
        rows = layer.rows
        flat = rows.reshape(-1, rows.shape[2])
        scheme = weight_params(flat, 0 if self.per_channel else None, bits)
        step = np.broadcast_to(scheme.scale, len(flat)).astype(np.float64)
        plain = scheme.quantize(flat)
        reach = 127 if bits == 8 else 64
        biased = bias_place(layer) is not None
        fit = evidence.fit.centred if biased else evidence.fit
        integers = np.empty(rows.shape)
        scaled = (flat / step[:, None]).reshape(rows.shape)
        size = np.abs(flat)
        peak = size.max(axis=1, keepdims=True) if self.per_channel else size.max()
        largest = (size == peak).reshape(rows.shape)
        fixed = largest | (rows == 0)  # pruned weights stay zero
        for group in range(len(rows)):
            integers[group] = round_weights(
                scaled[group],
                fit.second[group],
                low=-reach,
                high=reach,
                fixed=fixed[group],
                sweeps=self.sweeps,
            )
        rounded = (integers * step.reshape(*rows.shape[:2], 1)).astype(np.float32)
        # The largest keep their very value, and with it the scale.
        rounded = np.where(largest, rows, rounded)
        before = scheme.dequantize(plain).reshape(rows.shape) - rows
        after = rounded.astype(np.float64) - rows
        mean = evidence.fit.mean
        shift = -np.einsum("gok,gk->go", after, mean).reshape(-1) if biased else None
        verdict = Verdict(
            _held_error(evidence, before, corrected=biased),
            _held_error(evidence, after, corrected=biased),
            evidence.held.energy(rows),
        )
        return rounded, shift, verdict


def _held_error(evidence: Evidence, error: Array, *, corrected: bool) -> float:
    """Return the squared output error on what was held out, the bias as the rest suggests it.

    With E the error of the weights, m the mean of what was fitted to, S and s the moments held out:
    trace(E S E^T) - 2 (E s) (E m) + n (E m)^2.
    """
    whole = evidence.held.energy(error)
    if not corrected:
        return whole
    shift = np.einsum("gok,gk->go", error, evidence.fit.mean)
    met = np.einsum("gok,gk->go", error, evidence.held.first)
    return (
        whole - 2 * float(np.vdot(met, shift)) + evidence.held.count * float(np.vdot(shift, shift))
    )
