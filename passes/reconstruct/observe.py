# SPDX-License-Identifier: Apache-2.0
"""What layers are fed, over calibration data: a few layers at a time, with samples held out.

A method learns from three quarters of the samples and is judged on the last quarter, which it has
not seen. Gram matrices are kept of as many layers as fit a number of bytes; the samples are read
again for the next ones. So memory depends neither on the number of samples nor on that of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.calibration.collect import Progress, Watcher, collect
from burnish.passes.reconstruct.gram import Gram, Rows
from burnish.passes.reconstruct.layer import Layer, gram_bytes
from burnish.passes.sketch import Array

BUDGET = 512 << 20
"""Bytes of Gram matrices held at a time; those of one layer may take more."""

SHARE = 4
"""One of so many samples is held out."""


def is_held_out(index: int) -> bool:
    """Whether a sample is for judging: one of each four, at a place that keeps changing.

    The place is the sum of the base-4 digits of the number of the four: samples that come in turns
    of several kinds are dealt out evenly, as by the Thue-Morse sequence.
    """
    block, place = divmod(index, SHARE)
    digits = 0
    while block:
        block, digit = divmod(block, SHARE)
        digits += digit
    return place == (SHARE - 1 + digits) % SHARE


@dataclass(frozen=True)
class Moments:
    """First and second moments of what a layer is fed: n columns x of K numbers, for each group.

    Attributes:
        second: Sum of x x^T, float64 [G, K, K]; symmetric.
        first: Sum of x, float64 [G, K].
        count: n.
    """

    second: NDArray[np.float64]
    first: NDArray[np.float64]
    count: int

    @staticmethod
    def of(gram: Gram) -> Moments:
        """Read the Gram matrix of columns that end with a one."""
        whole = gram.matrix.reshape(gram.groups, gram.features, gram.features)
        return Moments(whole[:, :-1, :-1], whole[:, :-1, -1], gram.count)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of x, [G, K]."""
        return np.asarray(self.first / max(self.count, 1))

    @property
    def centred(self) -> Moments:
        """The moments of x less its mean: all that is left of an error if a bias can take some."""
        outer = self.first[:, :, None] * self.mean[:, None, :]
        return Moments(self.second - outer, np.zeros_like(self.first), self.count)

    def energy(self, rows: Array) -> float:
        """Return the squared norm of rows X: trace(rows (X X^T) rows^T), of rows [G, O / G, K]."""
        wide = rows.astype(np.float64)
        return max(float(np.vdot(wide @ self.second, wide)), 0.0)


@dataclass(frozen=True)
class Evidence:
    """What is known of the inputs of one layer.

    Attributes:
        fit: To learn from.
        held: To judge by; the same as `fit` where there were too few samples to hold any out.
    """

    fit: Moments
    held: Moments


@dataclass(frozen=True)
class WithOne:
    """Cuts an input as `rows` does, with a one behind each column: the input of the bias."""

    rows: Rows

    def __call__(self, array: Array) -> Iterator[Array]:
        """Yield [G, n, K + 1]."""
        for piece in self.rows(array):
            yield np.concatenate([piece, np.ones((*piece.shape[:2], 1), piece.dtype)], axis=2)


class Dealt:
    """Deals the samples of one value to two watchers: to `fit`, or held out."""

    def __init__(self, fit: Watcher, held: Watcher) -> None:
        self.fit = fit
        self.held = held
        self.count = 0

    def update(self, array: Array) -> None:
        """Observe the next sample."""
        (self.held if is_held_out(self.count) else self.fit).update(array)
        self.count += 1


def observe(
    model: ir.Model,
    layers: Sequence[Layer],
    samples: CalibrationSource,
    *,
    progress: Progress | None = None,
    budget: int = BUDGET,
) -> Iterator[tuple[Layer, Evidence]]:
    """Yield layers in order, each with what it is fed.

    Args:
        model: What runs. Layers are found in it by the names of their inputs, so that they may be
            of a copy which is edited meanwhile.
        layers: Of its main graph.
        samples: What to run it on.
        progress: Shows progress: (items, total, label) -> items.
        budget: Bytes of Gram matrices to hold at a time.

    Raises:
        InputError: the samples or the model do not run.
    """
    # Read now: the layers may have other inputs by the time their turn comes.
    wanted = [(layer, _inputs(layer)) for layer in layers]
    for group in _groups(wanted, budget):
        grams: dict[_Inputs, tuple[Gram, Gram]] = {}
        watchers: dict[str, list[Watcher]] = {}
        for layer, inputs in group:
            if inputs not in grams:
                # What one weight is fed in several places goes into one sum: an unrolled
                # recurrence has a place for each step.
                fit, held = grams[inputs] = (_gram(layer), _gram(layer))
                for name in inputs.names:
                    watchers.setdefault(name, []).append(Dealt(fit, held))
        collect(model, watchers, samples, progress=progress)
        while group:
            layer, inputs = group.pop(0)
            yield layer, _evidence(*grams[inputs])
            if all(others != inputs for _, others in group):  # no later layer of the group needs it
                del grams[inputs]


@dataclass(frozen=True)
class _Inputs:
    """All that a layer is fed: names of values, and what cuts them into rows."""

    names: frozenset[str]
    cut: Rows


def _inputs(layer: Layer) -> _Inputs:
    return _Inputs(frozenset(value.name or "" for value in layer.inputs), layer.cut)


_Wanted = tuple[Layer, _Inputs]


def _groups(wanted: Iterable[_Wanted], budget: int) -> Iterator[list[_Wanted]]:
    group: list[_Wanted] = []
    held: set[_Inputs] = set()
    room = budget
    for layer, inputs in wanted:
        cost = 0 if inputs in held else gram_bytes(layer)
        if group and cost > room:
            yield group
            group, held, room = [], set(), budget
            cost = gram_bytes(layer)
        group.append((layer, inputs))
        held.add(inputs)
        room -= cost
    if group:
        yield group


def _gram(layer: Layer) -> Gram:
    return Gram(layer.fan_in + 1, groups=layer.groups, rows=WithOne(layer.cut))


def _evidence(fit: Gram, held: Gram) -> Evidence:
    learned = Moments.of(fit)
    return Evidence(learned, Moments.of(held) if held.count else learned)
