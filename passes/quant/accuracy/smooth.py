# SPDX-License-Identifier: Apache-2.0
"""SmoothQuant: outliers of activations move into weights, where they cost less.

G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models" (2023), equation 4: input channel j is divided, and its weights multiplied, by

    s_j = max|X_j| ^ alpha / max|W_j| ^ (1 - alpha)

The model computes the same. `burnish.passes.quant.accuracy.migrate` says where s is folded in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.accuracy.migrate import Site, balanced, sites_of
from burnish.passes.quant.calibration.collect import collect
from burnish.passes.quant.calibration.observers import Range
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.scheme import activation_params, weight_bits, weight_params
from burnish.passes.reconstruct.judge import WORSE, Account, Verdict
from burnish.passes.reconstruct.observe import Dealt
from burnish.passes.sketch import Array

GRID = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Values of alpha that `search` tries."""


class ChannelRows:
    """Keeps the range of each channel along the last axis, and a bounded number of rows.

    Each sample gives rows at even distances; where there are too many, every second one goes.

    Args:
        limit: Rows to keep at most.
        each: Rows to take of a sample at most.

    Attributes:
        low: Least number of each channel; None before the first sample.
        high: Largest number of each channel.
    """

    def __init__(self, limit: int = 512, each: int = 32) -> None:
        self.limit = limit
        self.each = each
        self.low: Array | None = None
        self.high: Array | None = None
        self._kept: list[Array] = []
        self._seen = 0
        self._stride = 1

    def update(self, array: Array) -> None:
        """Observe a sample.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        rows = array.reshape(-1, array.shape[-1])
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("it holds numbers that are not finite")
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        for row in rows[:: -(-len(rows) // self.each)]:
            if self._seen % self._stride == 0:
                self._kept.append(row.copy())
            self._seen += 1
            if len(self._kept) > self.limit:
                del self._kept[1::2]
                self._stride *= 2

    @property
    def rows(self) -> Array:
        """The rows kept, [n, channels]."""
        return np.stack(self._kept)


def smoothing(peaks: Array, weights: Sequence[Array], alpha: float) -> NDArray[np.float64]:
    """Return the factors s of equation 4, with a geometric mean of 1; 1 for a channel of zeros.

    Args:
        peaks: max|X_j| of each input channel, [K].
        weights: Weights of all that takes the input, [outputs, K] each.
        alpha: How much of the difficulty moves to the weights: 0 to 1.
    """
    reach = np.max([np.abs(rows).max(axis=0) for rows in weights], axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return balanced(peaks.astype(np.float64) ** alpha / reach ** (1 - alpha))


def int8_error(
    x: Array, weights: Sequence[Array], low: Array, high: Array, factor: Array, bits: int = 8
) -> float:
    """Return the squared error of int8 products on smoothed inputs.

    Activations are uint8 over the range of all channels, weights int8 by output channel.

    Args:
        x: Inputs [n, K].
        weights: Weights [outputs, K] of all that takes them.
        low: Least number of each input channel.
        high: Largest one.
        factor: s, [K].
        bits: Of the weights: 7 or 8.
    """
    scheme = activation_params(Range(float((low / factor).min()), float((high / factor).max())))
    smooth = scheme.dequantize(scheme.quantize(x / factor))
    total = 0.0
    for rows in weights:
        scaled = (rows * factor).astype(np.float32)
        by_channel = weight_params(scaled, 0, bits)
        rounded = by_channel.dequantize(by_channel.quantize(scaled))
        total += float(np.square(smooth @ rounded.T - x @ rows.T, dtype=np.float64).sum())
    return total


@dataclass(frozen=True)
class Smooth(Pass):
    """Move outliers of activations into weights before int8: SmoothQuant.

    Exact up to rounding: scales are folded into the norm or product before a MatMul or Gemm. Where
    the output error of int8 does not fall on samples held out, nothing is moved. Run it before
    `quant`, behind `fuse`.
    """

    name: ClassVar[str] = "smooth"
    rule_names: ClassVar[tuple[str, ...]] = ("smooth",)

    alpha: float = option(0.5, help="how much moves to the weights", min=0, max=1)
    search: bool = option(False, help="find alpha for each input, by the error on samples")
    insert: bool = option(False, help="where there is no place for a scale, insert a Mul")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes to leave alone")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Observe inputs, then move scales, input by input.

        Raises:
            InputError: there is no calibration data, or it does not fit the model.
        """
        if passed_through(model, ctx):
            return
        sites = sites_of("smooth", model, ctx, insert=self.insert, exclude=self.exclude)
        if not sites or ctx.calibration is None:
            return
        dealt = {site.value.name or "": Dealt(ChannelRows(), ChannelRows()) for site in sites}
        watchers = {name: [each] for name, each in dealt.items()}
        collect(model, watchers, ctx.calibration, progress=ctx.progress)
        account = Account()
        bits = weight_bits(ctx.target.int8_accumulator_bits)
        chosen: dict[str, float] = {}
        for site in ctx.progress(sites, len(sites), "smooth"):
            name = site.value.name or ""
            alpha, factor, verdict = self._judge(site, dealt[name], bits)
            if not account.add(name, verdict):
                ctx.refuse("smooth", site.layers[0].node, WORSE)
                continue
            with ctx.rewrite("smooth", site.value) as go:
                if go:
                    chosen[name] = alpha
                    site.migrate(factor)
        ctx.details["smooth"] = {**account.summary(), "alpha": chosen}

    def _judge(
        self, site: Site, dealt: Dealt, bits: int
    ) -> tuple[float, NDArray[np.float64], Verdict]:
        """Return alpha, the factors, and what they do on samples that alpha was not found on."""
        fit, held = dealt.fit, dealt.held
        assert isinstance(fit, ChannelRows)
        assert isinstance(held, ChannelRows)
        assert fit.low is not None
        assert fit.high is not None
        low, high = fit.low, fit.high
        judged = held if held.low is not None else fit
        weights = [layer.rows[0] for layer in site.layers]
        peaks = np.maximum(-low, high)
        factors = {
            alpha: smoothing(peaks, weights, alpha)
            for alpha in (GRID if self.search else (self.alpha,))
        }

        def error(rows: Array, factor: Array) -> float:
            return int8_error(rows, weights, low, high, factor, bits)

        alpha = next(iter(factors))
        if len(factors) > 1:
            alpha = min(factors, key=lambda each: error(fit.rows, factors[each]))
        rows = judged.rows
        size = sum(float(np.square(rows @ w.T, dtype=np.float64).sum()) for w in weights)
        before = error(rows, np.ones(rows.shape[1]))
        return alpha, factors[alpha], Verdict(before, error(rows, factors[alpha]), size)
