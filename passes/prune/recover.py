# SPDX-License-Identifier: Apache-2.0
"""What cut units gave is made up for by what stays, layer after layer, without labels.

Layers are fitted in the order of the graph. Of each, let X be what it is fed in the model that was
cut, with all layers before it fitted already, and Y what it gives in the whole model. The change D
of its weights W, and of its bias, that brings it closest to Y has a closed form in the moments of X
and of what is missing, R = Y - W X - b:

    D = (R X^T) (X X^T + damping)^-1        X with a row of ones if there is a bias

so errors do not pile up: each layer also makes up for what those before it could not. (Y. He et
al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, sections 3.1 and 3.3, and
X. Zhang et al., "Accelerating Very Deep Convolutional Networks", 2016, for the asymmetric form.) A
layer whose output is added to another branch aims at the sum, and so makes up for that branch as
well. A quarter of the samples is held out, and decides between dampings, moving the bias alone,
and nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.calibration import CalibrationSource, run_sample
from burnish.passes.constant import as_array
from burnish.passes.edit import remove_unused
from burnish.passes.prune.aims import Target, waves_of
from burnish.passes.prune.moments import Batch, Columns
from burnish.passes.prune.survivors import Survivors
from burnish.passes.quant.calibration.collect import Progress
from burnish.passes.reconstruct.judge import Account, Verdict
from burnish.passes.reconstruct.layer import Layer, bias_place, shift_bias
from burnish.passes.reconstruct.observe import is_held_out
from burnish.passes.sketch import Array

Wide = NDArray[np.float64]

DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Shares of the mean variance of the inputs that are added to each."""


def recover(
    whole: ir.Model,
    model: ir.Model,
    survivors: Survivors,
    samples: CalibrationSource,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Account:
    """Fit the layers behind what was cut; edits weights and biases in place.

    Args:
        whole: The model before any cut; runs as it is.
        model: The model that was cut.
        survivors: What is left of the values of `whole` in `model`.
        samples: What both run on.
        seed: Of the choice of columns, where there are more than needed.
        progress: Shows progress: (items, total, label) -> items.

    Returns:
        Errors of the layers' outputs on held-out samples, against those of the whole model; before:
        with all layers before it fitted, and the layer itself as it was.

    Raises:
        InputError: the samples or a model do not run.
    """
    account = Account()
    length = samples.known_length or len(samples)
    waves = list(waves_of(model, survivors))
    shown: Iterable[list[Target]] = waves
    if progress is not None:
        shown = progress(waves, len(waves), "recover")
    for wave in shown:
        moments = [_Dealt(target, length, seed + at) for at, target in enumerate(wave)]
        _observe(whole, model, survivors, moments, samples)
        for each in moments:
            _fit(each, account)
    return account


# --- what is seen ---------------------------------------------------------------------------------


class _Moments:
    """Sums over columns x, with a one behind each, and what is missing at the output, r.

    Attributes:
        second: Sum of x x^T, [G, K + 1, K + 1].
        cross: Sum of r x^T, [G, O / G, K + 1].
        missing: Sum of r^2.
        count: Columns seen.
    """

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        self.second = np.zeros((groups, features + 1, features + 1))
        self.cross = np.zeros((groups, outputs, features + 1))
        self.first = np.zeros((groups, outputs))
        self.square = 0.0
        self.missing = 0.0
        self.count = 0

    def add(self, x: Wide, missing: Wide, aim: Wide) -> None:
        """Observe x [G, n, K + 1], r [G, n, O / G] and what is aimed at."""
        self.second += x.transpose(0, 2, 1) @ x
        self.cross += missing.transpose(0, 2, 1) @ x
        self.missing += float(np.vdot(missing, missing))
        self.first += aim.sum(1)
        self.square += float(np.vdot(aim, aim))
        self.count += x.shape[1]

    @property
    def size(self) -> float:
        """Sum of squares of what is aimed at, less its mean."""
        return max(self.square - float(np.vdot(self.first, self.first)) / max(self.count, 1), 0.0)

    def error(self, change: Wide) -> float:
        """Return the squared error that is left with a change [G, O / G, K + 1]."""
        left = self.missing - 2 * np.vdot(change, self.cross)
        return max(float(left + np.vdot(change @ self.second, change)), 0.0)


class _Dealt:
    """Deals samples of one layer to moments to learn from, and to judge by."""

    def __init__(self, target: Target, length: int, seed: int) -> None:
        self.target = target
        layer = target.layer
        self.rows = layer.rows.astype(np.float64)
        self.bias = _bias(layer)
        groups, outputs, features = self.rows.shape
        self.columns = Columns(layer.cut, features, length * len(target.aims), seed)
        self.fit = _Moments(groups, features, outputs)
        self.held = _Moments(groups, features, outputs)
        self._batches = [Batch(partial(self._add, to)) for to in (self.fit, self.held)]
        self.index = 0

    def update(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Observe inputs and what is aimed at, of each of the layer's operators on one sample."""
        batch = self._batches[is_held_out(self.index)]
        self.index += 1
        for array, aim in pairs:
            x, chosen = self.columns.of(array)
            batch.add(x, self._outputs(aim)[:, chosen].astype(np.float64))

    def flush(self) -> None:
        """Add up what is kept."""
        for batch in self._batches:
            batch.flush()

    def _add(self, moments: _Moments, x: Wide, aim: Wide) -> None:
        missing = aim - x[:, :, :-1] @ self.rows.transpose(0, 2, 1) - self.bias
        moments.add(x, missing, aim)

    def _outputs(self, aim: Array) -> Array:
        """Return an output as [G, n, O / G], in the order of the input's columns."""
        groups, outputs, _ = self.rows.shape
        if self.target.layer.node.op_type == "Conv":
            aim = np.moveaxis(aim, 1, -1)
        return aim.reshape(-1, groups, outputs).transpose(1, 0, 2)


def _bias(layer: Layer) -> Wide:
    """Return the bias [G, 1, O / G], of wherever it is added."""
    place = bias_place(layer)
    channels = layer.weights.channels
    found = layer.weights.bias
    if place is not None and place is not layer.node:
        slot = 1 if place.inputs[0] is layer.node.outputs[0] else 0
        found = as_array(place.inputs[slot])
    flat = np.zeros(channels) if found is None else found.astype(np.float64).reshape(-1)
    return flat.reshape(layer.groups, 1, -1)


def _observe(
    whole: ir.Model,
    model: ir.Model,
    survivors: Survivors,
    moments: Sequence[_Dealt],
    samples: CalibrationSource,
) -> None:
    """Run both models over the samples, as far as the layers need them."""
    aims = [aim for each in moments for aim in each.target.aims]
    ours = [*(aim.fed for aim in aims), *(aim.other for aim in aims if aim.other is not None)]
    with contextlib.ExitStack() as stack:
        teacher = stack.enter_context(_Running(whole, [aim.value for aim in aims]))
        student = stack.enter_context(_Running(model, ours))
        for number, feeds in enumerate(samples):
            wanted, given = teacher.run(feeds, number), student.run(feeds, number)
            for each in moments:
                pairs = []
                for aim in each.target.aims:
                    value = survivors.of(aim.value, wanted[aim.value])
                    pairs.append(
                        (given[aim.fed], value if aim.other is None else value - given[aim.other])
                    )
                each.update(pairs)


class _Running:
    """A model that gives values of its main graph; only what they need is run."""

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        self.inputs = {value.name for value in model.graph.inputs}
        self.names = [name for name in dict.fromkeys(names) if name not in self.inputs]
        self.model = _up_to(model, self.names)
        self.session: Any = None

    def __enter__(self) -> _Running:
        from burnish.backends.onnxruntime import session

        if self.names:
            given = {value.name for value in self.model.graph.outputs}
            extra = [name for name in self.names if name not in given]
            self.session = session(self.model, optimize="all", extra_outputs=extra)
        return self

    def __exit__(self, *_: object) -> None:
        if self.session is not None:
            self.session.close()

    def run(self, feeds: Mapping[str, Array], number: int) -> dict[str, Array]:
        """Return values by name; inputs among them."""
        if self.session is None:
            return dict(feeds)
        needed = {spec.name for spec in self.session.inputs}
        own = {name: array for name, array in feeds.items() if name in needed}
        return {**feeds, **run_sample(self.session, own, self.names, number)}


def _up_to(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy with other outputs, and without what those do not need; shares the weights."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    if all(values[name].type is not None for name in names):
        copy.graph.outputs[:] = [values[name] for name in names]
        remove_unused(list(copy.graph))
    return copy


# --- the fit --------------------------------------------------------------------------------------


def _fit(dealt: _Dealt, account: Account) -> None:
    dealt.flush()
    fit, held, target = dealt.fit, dealt.held, dealt.target
    if not held.count:
        held = fit
    nothing = np.zeros_like(fit.cross)
    candidates = [nothing]
    if target.movable:
        shifted = nothing.copy()
        shifted[:, :, -1] = fit.cross[:, :, -1] / max(fit.count, 1)
        candidates.append(shifted)
    candidates += [_solved(fit, share, target.movable) for share in DAMPINGS]
    errors = [held.error(change) for change in candidates]
    best = int(np.argmin(errors))
    if not account.add(target.layer.name, Verdict(errors[0], errors[best], held.size)):
        return
    change = candidates[best]
    if change[:, :, :-1].any():
        target.layer.replace(dealt.rows + change[:, :, :-1])
    if target.movable:
        shift_bias(target.layer, change[:, :, -1].reshape(-1))


def _solved(fit: _Moments, share: float, movable: bool) -> Wide:
    """Return the change of weights and bias that leaves the least missing."""
    count = max(fit.count, 1)
    second, cross = fit.second, fit.cross
    mean = second[:, :-1, -1] / count
    inner, outer = second[:, :-1, :-1], cross[:, :, :-1]
    drift = cross[:, :, -1] / count
    if movable:
        inner = inner - count * mean[:, :, None] * mean[:, None, :]
        outer = outer - count * drift[:, :, None] * mean[:, None, :]
    change = np.zeros_like(cross)
    for group, matrix in enumerate(inner):
        diagonal = np.abs(np.diagonal(matrix))
        added = share * (float(diagonal.mean()) or 1.0)
        damped = matrix + np.diag(np.full(len(matrix), added))
        change[group, :, :-1] = np.linalg.solve(damped, outer[group].T).T
    if movable:
        change[:, :, -1] = drift - np.einsum("gok,gk->go", change[:, :, :-1], mean)
    return change
