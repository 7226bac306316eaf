# SPDX-License-Identifier: Apache-2.0
"""Pruning by what layers are fed: criteria that need activations, and recovery by least squares.

Layer by layer, what a layer is fed decides what goes (Wanda, SparseGPT), and what stays is fitted
to the output the original weights give: conjugate gradients under the mask (`refit`), and the mean
of what is lost goes into the bias. Samples held out choose between strong damping, little, and
none of it, so that recovery is never worse on data it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.axes import axes_of
from burnish.passes.prune.pattern import Mask, Pattern
from burnish.passes.prune.weights import Weight
from burnish.passes.prune.zeroing import Zeroing
from burnish.passes.quant.calibration.collect import Progress
from burnish.passes.reconstruct.compensate import ridge
from burnish.passes.reconstruct.judge import Account, Verdict
from burnish.passes.reconstruct.layer import Layer, layers_of, shift_bias
from burnish.passes.reconstruct.observe import Evidence, Moments, observe
from burnish.passes.reconstruct.refit import refit
from burnish.passes.reconstruct.residual import Residual
from burnish.passes.reconstruct.sparsegpt import sparsegpt
from burnish.passes.sketch import Array

Rows = NDArray[np.float64]

DAMPINGS = (1e-1, 1e-2)
"""Shares of the mean of the inputs' moments that are added to them; see `ridge`."""

Gate = Callable[[Weight, Callable[[], None]], bool]
"""Does the edit of a weight, unless it is held back; returns whether it was done."""

UNOBSERVED = "what it is fed cannot be observed"


@dataclass
class Fitting:
    """One weight to prune with the layer that it belongs to.

    Attributes:
        weight: The weight.
        layer: The layer, in the model that is edited.
        target: The same layer with the original weights.
        shift: What its bias was moved by so far; None if it was not.
    """

    weight: Weight
    layer: Layer
    target: Layer
    shift: Array | None = None

    @property
    def taps(self) -> int:
        """Taps of a Conv's kernel: inputs of a row come channel by channel, tap by tap."""
        shape = self.layer.weights.array.shape
        return int(np.prod(shape[2:])) if self.layer.node.op_type == "Conv" else 1

    def move_bias(self, shift: Array | None) -> None:
        """Let the bias be the original one and `shift`."""
        if shift is None and self.shift is None:
            return
        wanted = 0.0 if shift is None else shift
        shift_bias(self.layer, np.asarray(wanted - (0.0 if self.shift is None else self.shift)))
        self.shift = shift

    def put(self, rows: Rows) -> None:
        """Replace the elements of the weight by rows [G, O / G, K], past what views it."""
        node = self.layer.node
        array = self.layer.stored(rows)
        if node.op_type == "Gemm":
            array = array / (node.attributes.get_float("alpha", 1.0) or 1.0)
        value = node.inputs[1]
        while value is not None and value is not self.weight.value:
            view = value.producer()
            assert view is not None
            if view.op_type == "Transpose":
                order = view.attributes.get_ints("perm", range(array.ndim)[::-1])
                array = array.transpose(np.argsort(np.asarray(order)))
            value = view.inputs[0]
        tensor = self.weight.tensor
        stored = np.ascontiguousarray(array).astype(tensor.dtype.numpy())
        self.weight.replace(ir.tensor(stored, dtype=tensor.dtype, name=tensor.name))


def pair(
    model: ir.Model,
    original: ir.Model,
    weights: Sequence[Weight],
    refuse: Callable[[Weight, str], None],
) -> list[Fitting]:
    """Find the layers of weights, those of a model and of its original.

    Args:
        model: What is edited.
        original: A clone made before.
        weights: Of `model`.
        refuse: Told why a weight is of no layer that can be observed.
    """
    reasons: dict[ir.Node, str] = {}
    layers = layers_of(model, reasons.__setitem__)
    sources = {layer.name: layer for layer in layers_of(original)}
    by_node = {node: layer for layer in layers for node in layer.nodes}
    found = []
    for weight in weights:
        layer = by_node.get(weight.users[0])
        axes = axes_of(weight)
        if isinstance(axes, str):
            refuse(weight, axes)
        elif layer is None:
            refuse(weight, reasons.get(weight.users[0], UNOBSERVED))
        elif set(layer.nodes) != set(weight.users) or layer.name not in sources:
            refuse(weight, "shared by operators that use it in different ways")
        else:
            found.append(Fitting(weight, layer, sources[layer.name]))
    return found


@dataclass(frozen=True)
class Step:
    """What to do to each layer.

    Attributes:
        criterion: `wanda` or `sparsegpt`; else `zeroings` say what goes.
        pattern: What goes together.
        ratios: Of each weight, as the pattern takes it.
        zeroings: Of each weight, what goes, if weights alone decide that.
        recover: Fit what stays, and the bias.
    """

    criterion: str
    pattern: Pattern
    ratios: Mapping[str, float]
    zeroings: Mapping[str, Zeroing]
    recover: bool

    def run(
        self,
        model: ir.Model,
        fittings: Sequence[Fitting],
        samples: CalibrationSource,
        progress: Progress,
        gate: Gate,
    ) -> Account:
        """Prune the layers one after the other, fed as the model is when the step begins.

        Args:
            model: The model that holds the weights; edited in place.
            fittings: What to prune.
            samples: What to run it on.
            progress: Shows progress.
            gate: Lets each weight be edited.

        Returns:
            Errors of the layers' outputs against the original's on held-out samples, before: with
            the same mask and nothing made up for.
        """
        account = Account()
        # The copy runs while the layers change.
        seen = observe(model.clone(), [f.layer for f in fittings], samples, progress=progress)
        label = f"prune: {self.criterion}"
        for fitting, (_, evidence) in zip(
            fittings, progress(seen, len(fittings), label), strict=True
        ):
            self._prune(fitting, evidence, account, gate)
        return account

    def _prune(
        self,
        fitting: Fitting,
        evidence: Evidence,
        account: Account,
        gate: Gate,
    ) -> None:
        rows = fitting.target.rows.astype(np.float64)
        residual = Residual(fitting.layer, rows, evidence)
        current = fitting.layer.rows.astype(np.float64)
        fit = residual.fit if self.recover else evidence.fit  # without, no bias moves
        chosen = self._chosen(fitting, current, fit)
        keep = chosen != 0
        masked = np.where(keep, rows, 0.0)
        before = residual.plain(masked)
        shift = None
        if self.recover:
            candidates = [chosen, *_refitted(rows, fit, keep, chosen)]
            errors = [residual.error(new) for new in candidates]
            chosen = candidates[int(np.argmin(errors))]
            if residual.movable and min(errors) < residual.plain(chosen):
                shift = residual.shift(chosen)
        after = residual.plain(chosen) if shift is None else residual.error(chosen)

        def edit() -> None:
            fitting.put(chosen)
            fitting.move_bias(shift)

        changed = shift is not None or fitting.shift is not None or bool((chosen != current).any())
        if changed and gate(fitting.weight, edit):
            account.add(fitting.layer.name, Verdict(before, after, residual.size))

    def _chosen(self, fitting: Fitting, current: Rows, fit: Moments) -> Rows:
        """Return weights with what goes zeroed."""
        name = fitting.weight.name
        if self.criterion not in ("wanda", "sparsegpt"):
            return np.where(_after(fitting, self.zeroings[name]) != 0, current, 0.0)
        result = np.empty_like(current)
        order = _channels_last(current.shape[-1], fitting.taps)
        ratio = self.ratios[name]
        for group, second in enumerate(fit.second):
            if self.criterion == "wanda":
                sizes = np.sqrt(np.maximum(np.diagonal(second)[order], 0))
                scores = np.abs(current[group][:, order]) * sizes
                made = np.where(
                    self.pattern.drop(scores, ratio, by_row=True), 0.0, current[group][:, order]
                )
            else:
                made = sparsegpt(
                    current[group][:, order], second[np.ix_(order, order)], self.pattern, ratio
                )
            result[group][:, order] = made
        return result


def _after(fitting: Fitting, zeroing: Zeroing) -> Array:
    """Return the rows a layer will have, through whatever lies between it and its weight."""
    tensor = fitting.weight.tensor
    fitting.weight.replace(zeroing.tensor(tensor))
    try:
        return fitting.layer.rows
    finally:
        fitting.weight.replace(tensor)


def _refitted(rows: Rows, fit: Moments, keep: Mask, start: Rows) -> Iterator[Rows]:
    for share in DAMPINGS:
        groups = zip(rows, fit.second, keep, start, strict=True)
        yield np.stack([refit(one, ridge(h, share), mask, at) for one, h, mask, at in groups])


def _channels_last(features: int, taps: int) -> NDArray[np.intp]:
    """Return the order of columns in which those of one tap lie together, channel by channel."""
    return np.arange(features).reshape(-1, taps).T.reshape(-1)
