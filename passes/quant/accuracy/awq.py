# SPDX-License-Identifier: Apache-2.0
"""AWQ: weights that meet large activations are scaled up before they are rounded.

J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration"
(2024), section 3.2: input channel j is divided, and its weights multiplied, by

    s_j = a_j ^ alpha        alpha = argmin || Q(W s) (X / s) - W X ||

over a grid of alpha in [0, 1). Here a_j is the root mean square of the channel, not its mean
magnitude: the Gram matrix X X^T, from which the error follows too, has it on its diagonal.
`burnish.passes.quant.accuracy.migrate` says where s is folded in.
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
from burnish.passes.quant.accuracy.migrate import balanced, sites_of
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.weights.blocks import SEARCHES, fit_blocks
from burnish.passes.reconstruct.judge import WORSE, Account, Verdict
from burnish.passes.reconstruct.observe import Moments, observe
from burnish.passes.sketch import Array

STEPS = 20
"""Values of alpha that are tried: 0, 1/20, ... as in the authors' code."""


@dataclass(frozen=True)
class Awq(Pass):
    """Scale weights by what they are fed before `quant-weights` rounds them: AWQ.

    Exact up to rounding: scales are folded into the norm or product before a MatMul or Gemm. Bits
    and blocks are those that `quant-weights` will be given. Where the output error does not fall on
    samples held out, nothing is scaled.
    """

    name: ClassVar[str] = "awq"
    rule_names: ClassVar[tuple[str, ...]] = ("awq",)

    bits: int = option(4, help="width of the weights to come", min=2, max=8)
    block: int = option(32, help="weights that will share a scale; 0 for the whole axis", min=0)
    symmetric: bool = option(False, help="no zero points to come")
    fit: str = option("mse", help="how scales of blocks will be found", choices=SEARCHES)
    insert: bool = option(False, help="where there is no place for a scale, insert a Mul")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes to leave alone")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Observe inputs, then scale, input by input.

        Raises:
            InputError: there is no calibration data, or it does not fit the model.
        """
        if passed_through(model, ctx):
            return
        sites = sites_of("awq", model, ctx, insert=self.insert, exclude=self.exclude)
        if not sites or ctx.calibration is None:
            return
        account = Account()
        # One layer stands for all that take the same input.
        firsts = [site.layers[0] for site in sites]
        seen = observe(model.clone(), firsts, ctx.calibration, progress=ctx.progress)
        pairs = zip(sites, seen, strict=True)
        for site, (_, evidence) in ctx.progress(pairs, len(sites), "awq"):
            weights = [layer.rows[0] for layer in site.layers]
            alpha, factor = self._search(weights, evidence.fit)
            verdict = Verdict(
                self._error(weights, evidence.held, np.ones(len(factor)), self.fit),
                self._error(weights, evidence.held, factor, self.fit),
                sum(evidence.held.energy(rows[None]) for rows in weights),
            )
            if alpha == 0 or not account.add(site.value.name or "", verdict):
                ctx.refuse("awq", site.layers[0].node, WORSE)
                continue
            with ctx.rewrite("awq", site.value) as go:
                if go:
                    site.migrate(factor)
        ctx.details["awq"] = account.summary()

    def _search(self, weights: Sequence[Array], fed: Moments) -> tuple[float, Array]:
        """Return the best alpha and its factors; plain ranges stand for the search of scales."""
        size = np.sqrt(np.diagonal(fed.second[0]))
        tried = {step / STEPS: balanced(size ** (step / STEPS)) for step in range(STEPS)}
        best = min(tried, key=lambda alpha: self._error(weights, fed, tried[alpha], "range"))
        return best, tried[best]

    def _error(
        self, weights: Sequence[Array], fed: Moments, factor: NDArray[np.float64], search: str
    ) -> float:
        return sum(
            fed.energy(
                rounding_error(
                    rows, factor, self.bits, self.block, symmetric=self.symmetric, search=search
                )[None]
            )
            for rows in weights
        )


def rounding_error(
    rows: Array,
    factor: NDArray[np.float64],
    bits: int,
    block: int,
    *,
    symmetric: bool = False,
    search: str = "mse",
) -> NDArray[np.float64]:
    """Return `Q(rows * factor) / factor - rows`, the error of weights [outputs, K] scaled by [K].

    The other arguments are those of `burnish.passes.quant.weights.blocks.fit_blocks`.
    """
    scaled = (rows * factor).astype(np.float32)
    scheme = fit_blocks(scaled, bits, block, symmetric=symmetric, search=search)
    return np.asarray(scheme.dequantize(scheme.quantize(scaled)) / factor - rows)
