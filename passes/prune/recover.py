# SPDX-License-Identifier: Apache-2.0
"""What readers of cut units lose is made up for by those that stay, without labels.

Of a layer Y = W X + b, let S be the inputs that stay. Over calibration data, W' of the inputs S
and b' that come closest to Y in least squares have a closed form (`least_squares`), of the
covariance of X and its mean: W' from the covariance, and b' = b + (W - W') mean(X). A quarter of
the samples is held out, and decides between much damping, little, moving the bias alone, and
nothing.
(Y. He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, section 3.1.)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.cut import Cut, Kept
from burnish.passes.quant.collect import Progress
from burnish.passes.reconstruct.compensate import damped, least_squares
from burnish.passes.reconstruct.judge import Account, Verdict
from burnish.passes.reconstruct.layer import Layer, bias_place, layers_of, shift_bias
from burnish.passes.reconstruct.observe import Evidence, observe

Rows = NDArray[np.float64]

DAMPINGS = (1e-2, 1e-4)
"""Shares of the mean of the inputs' variances that are added to them; see `damped`."""


def recover(
    model: ir.Model, cut: Cut, samples: CalibrationSource, progress: Progress | None = None
) -> Account:
    """Fit the layers that read what is about to be cut; edits weights and biases in place.

    Args:
        model: Not cut yet.
        cut: What will be.
        samples: What it is run on.
        progress: Shows progress.

    Returns:
        Errors of the layers' outputs on held-out samples, before: of the cut alone.
    """
    account = Account()
    layers = [
        layer
        for layer in layers_of(model)
        if not layer.shared and _inputs_kept(cut, layer) is not None
    ]
    # The copy runs while the layers change.
    for layer, evidence in observe(model.clone(), layers, samples, progress=progress):
        kept = _inputs_kept(cut, layer)
        assert kept is not None
        _fit(layer, kept, evidence, cut, account)
    return account


def _inputs_kept(cut: Cut, layer: Layer) -> Kept | None:
    """Return which of the numbers an output sums over stay, or None if all do."""
    weights = layer.weights
    kept = cut.axes(layer.node.inputs[1]).get(1 - weights.axis)
    if kept is None:
        return None
    return np.repeat(kept, layer.fan_in // kept.size)


def _fit(layer: Layer, kept: Kept, evidence: Evidence, cut: Cut, account: Account) -> None:
    rows = layer.rows.astype(np.float64)
    movable = bias_place(layer) is not None
    fit = evidence.fit.centred if movable else evidence.fit
    plain = np.where(kept, rows, 0.0)
    candidates = [plain]
    for share in DAMPINGS:
        groups = zip(rows, fit.second, strict=True)
        candidates.append(
            np.stack([least_squares(one, damped(second, share), kept) for one, second in groups])
        )
    held = evidence.held

    def error(new: Rows) -> float:
        """Squared error, with the bias moved by what `fit` says."""
        lost = rows - new
        total = held.energy(lost)
        if movable:
            shift = np.einsum("gok,gk->go", lost, evidence.fit.mean)
            drift = np.einsum("gok,gk->go", lost, held.first)
            total += float((held.count * shift**2 - 2 * shift * drift).sum())
        return max(total, 0.0)

    before = held.energy(rows - plain)
    errors = [error(new) for new in candidates]
    chosen, after = candidates[int(np.argmin(errors))], min(errors)
    if not account.add(layer.name, Verdict(before, after, held.energy(rows))):
        return
    with _Following(cut, layer):
        if chosen is not plain:
            layer.replace(chosen)
        if movable:
            lost = rows - chosen
            shift_bias(layer, np.einsum("gok,gk->go", lost, evidence.fit.mean).reshape(-1))


class _Following:
    """Lets new weights and biases be cut as the old ones would have been."""

    def __init__(self, cut: Cut, layer: Layer) -> None:
        self.cut = cut
        readers = [user for node in layer.nodes for user, _ in node.outputs[0].uses()]
        self.nodes = [*layer.nodes, *readers]
        self.layer = layer
        self.before: list[list[ir.Value | None]] = []

    def __enter__(self) -> None:
        self.before = [list(node.inputs) for node in self.nodes]

    def __exit__(self, *_: object) -> None:
        for node, old in zip(self.nodes, self.before, strict=True):
            for slot, value in enumerate(node.inputs):
                if value is None or (slot < len(old) and old[slot] is value):
                    continue
                was = old[slot] if slot < len(old) else None
                axes = self.cut.axes(was) if was is not None else self._of_bias(node)
                self.cut.kept.update(((value, axis), kept) for axis, kept in axes.items())

    def _of_bias(self, node: ir.Node) -> dict[int, Kept]:
        result = node.outputs[0]
        axis = 1 if node.op_type == "Conv" else len(result.shape or ()) - 1
        kept = self.cut.axes(result).get(axis)
        return {} if kept is None else {0: kept}
