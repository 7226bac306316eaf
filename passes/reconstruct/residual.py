# SPDX-License-Identifier: Apache-2.0
"""What a layer's output loses when its weights change, with a bias that makes up for the mean.

With weights W changed to W', the output is off by (W - W') x. A bias takes `(W - W') mean(x)` of
that back, so that only the covariance of x matters for what is left; without one, all of X X^T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.passes.reconstruct.layer import Layer, bias_place
from burnish.passes.reconstruct.observe import Evidence, Moments
from burnish.passes.sketch import Array

Rows = NDArray[np.float64]


class Residual:
    """Errors of the output of one layer.

    Args:
        layer: The layer; read now.
        rows: What its weights should be [G, O / G, K]: those of the original model.
        evidence: What it is fed.

    Attributes:
        fit: The moments that count for fitting: the covariance if there is a bias to move.
    """

    def __init__(self, layer: Layer, rows: Rows, evidence: Evidence) -> None:
        self.rows = rows
        self.evidence = evidence
        # Moving the bias of a scaled Gemm would replace its weights, too.
        scaled = layer.node.attributes.get_float("alpha", 1.0) != 1.0
        self.movable = bias_place(layer) is not None and not scaled
        self.fit: Moments = evidence.fit.centred if self.movable else evidence.fit

    @property
    def size(self) -> float:
        """Squared norm of the output itself, on held-out samples."""
        return self.evidence.held.energy(self.rows)

    def plain(self, new: Rows) -> float:
        """Return the squared error of weights on held-out samples, the bias left alone."""
        return self.evidence.held.energy(self.rows - new)

    def error(self, new: Rows) -> float:
        """Return the squared error of weights on held-out samples, with the bias moved."""
        held, lost = self.evidence.held, self.rows - new
        total = held.energy(lost)
        if self.movable:
            shift = self._shift(lost)
            drift = np.einsum("gok,gk->go", lost, held.first)
            total += float((held.count * shift**2 - 2 * shift * drift).sum())
        return max(total, 0.0)

    def shift(self, new: Rows) -> Array:
        """Return what the bias makes up for, one number for each output channel."""
        return self._shift(self.rows - new).reshape(-1)

    def _shift(self, lost: Rows) -> Rows:
        return np.asarray(np.einsum("gok,gk->go", lost, self.evidence.fit.mean))
