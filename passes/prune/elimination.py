# SPDX-License-Identifier: Apache-2.0
"""Which units go first, by what their readers lose that the other units cannot make up for.

A reader with weights W (rows [O, K]) and inputs X loses, if a set of its inputs goes and the others
make up for it in least squares, for each unit U with the inverse of H = X X^T among those left,

    trace(W_U [H^-1_UU]^-1 W_U^T)

and its weights become W - W_U [H^-1_UU]^-1 H^-1_U: , H^-1 loses as much. So units that others can
say, or that say nothing, go first, whatever their size. (B. Hassibi and D. Stork, "Optimal Brain
Surgeon", 1993; of whole blocks: E. Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of
Language Models", 2023, section 3.1, here summed over all readers of a group, each relative to the
energy of its output.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.calibration import CalibrationSource
from burnish.passes.prune.coupling import Indices
from burnish.passes.prune.moments import Columns, Second
from burnish.passes.prune.units import Group, Units
from burnish.passes.quant.calibration.collect import Progress, Watcher, collect
from burnish.passes.reconstruct.compensate import damped
from burnish.passes.reconstruct.gram import Rows
from burnish.passes.reconstruct.layer import Layer, bias_place, gram_bytes, layers_of
from burnish.passes.reconstruct.observe import BUDGET, Moments

Wide = NDArray[np.float64]

DAMPING = 1e-2
ROUNDS = 64
"""Units of a group are removed in about so many rounds, the least of each round together."""

WIDEST = 2 << 30
"""Bytes of moments beyond which a layer has no say."""


@dataclass
class Reader:
    """A layer that reads units of a group.

    Attributes:
        layer: The layer.
        rows: Its weights [O, K], which make up for what went.
        inverse: Of the damped second moments of its inputs, [K, K], of those left.
        place: Place of each input's unit in the group; -1 of others.
        mean: Mean of the inputs [K], if there is a bias to move, else zeros.
        size: Energy of its output.
    """

    layer: Layer
    rows: Wide
    inverse: Wide
    place: Indices
    mean: Wide
    size: float

    @staticmethod
    def of(layer: Layer, place: Indices, moments: Moments) -> Reader:
        """Take up a layer of one group."""
        movable = bias_place(layer) is not None
        used = moments.centred if movable else moments
        rows = layer.rows[0].astype(np.float64)
        mean = moments.mean[0] if movable else np.zeros(rows.shape[1])
        inverse = np.asarray(np.linalg.inv(damped(used.second[0], DAMPING)), np.float64)
        return Reader(layer, rows.copy(), inverse, place, mean, used.energy(rows[None]) or 1.0)

    def losses(self, left: Indices) -> Wide:
        """Return what is lost with each unit that is left, relative to the output."""
        columns = self._columns(left)
        if columns is None:
            return np.array([self._loss(np.flatnonzero(self.place == one)) for one in left])
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]  # [units, b, b]
        parts = self.rows[:, columns].transpose(1, 2, 0)  # [units, b, O]
        solved = np.linalg.solve(blocks, parts)
        return np.asarray(np.einsum("ubo,ubo->u", parts, solved) / self.size)

    def _columns(self, left: Indices) -> Indices | None:
        """Return the inputs of each unit, [units, b], if all have as many."""
        order = np.argsort(self.place, kind="stable")
        counts = np.bincount(self.place[self.place >= 0], minlength=int(left.max()) + 1)[left]
        if not counts.size or counts.min() != counts.max() or counts[0] == 0:
            return None
        starts = np.searchsorted(self.place[order], left)
        return np.asarray(order[starts[:, None] + np.arange(counts[0])])

    def _loss(self, at: Indices) -> float:
        if not at.size:
            return 0.0
        part = self.rows[:, at].T
        return float(np.vdot(part, np.linalg.solve(self.inverse[np.ix_(at, at)], part)) / self.size)

    def remove(self, units: Indices) -> float:
        """Remove units together; the others make up for them. Returns what is lost."""
        at = np.flatnonzero(np.isin(self.place, units))
        lost = self._loss(at)
        if at.size:
            slab = self.inverse[at]
            solved = np.linalg.solve(slab[:, at], slab)
            self.rows -= self.rows[:, at] @ solved
            self.rows[:, at] = 0.0
            self.inverse -= slab.T @ solved
            self.inverse[at] = self.inverse[:, at] = 0.0
            self.inverse[at, at] = 1.0
        return lost


@dataclass(frozen=True)
class Stage:
    """A group with some of its units gone.

    Attributes:
        removed: Places of those that went, in the order they went.
        losses: What the readers lost with each, summed over readers, relative to their outputs.
        rows: Layers with weights that make up for them, and means of their inputs.
    """

    removed: Indices
    losses: Wide
    rows: tuple[tuple[Layer, Wide, Wide], ...] = ()


def eliminate(readers: Sequence[Reader], count: int, stops: Sequence[int]) -> Iterator[Stage]:
    """Remove units of a group, the least first; the order of the rest is that of their losses then.

    Args:
        readers: Of the group; they are changed.
        count: Units of the group.
        stops: How many are gone when a stage is wanted, rising.

    Yields:
        A stage at each stop, and one of all units at the end. The weights of a stage are those of
        the readers, and change afterwards.
    """
    left = np.arange(count)
    removed: list[int] = []
    lost: list[float] = []
    at_once = max(1, count // ROUNDS)

    def losses() -> Wide:
        return sum((reader.losses(left) for reader in readers), np.zeros(left.size))

    for stop in stops:
        while len(removed) < stop:
            least = np.argsort(losses(), kind="stable")[: min(at_once, stop - len(removed))]
            chosen = left[least]
            together = sum(reader.remove(chosen) for reader in readers)
            removed += chosen.tolist()
            lost += [together / len(chosen)] * len(chosen)
            left = np.delete(left, least)
        rows = tuple((reader.layer, reader.rows, reader.mean) for reader in readers)
        yield Stage(np.array(removed, np.int64), np.array(lost), rows)
    last = losses()
    order = np.argsort(last, kind="stable")
    every = np.array([*removed, *left[order].tolist()], np.int64)
    yield Stage(every, np.array([*lost, *last[order].tolist()]))


def readers_of(
    model: ir.Model,
    units: Units,
    groups: Sequence[Group],
    samples: CalibrationSource,
    progress: Progress | None = None,
) -> Iterator[list[Reader]]:
    """Yield, for each group in turn, the layers that read its units; perhaps none.

    Layers in groups (depthwise ones) have no say: what they lose is what theirs lose.
    """
    layers = [layer for layer in layers_of(model) if layer.groups == 1]
    layers = [layer for layer in layers if gram_bytes(layer) <= WIDEST]
    places = [[_place(units, group, layer) for layer in layers] for group in groups]
    wanted: list[_Wanted] = [
        (number, layer, place)
        for number, own in enumerate(places)
        for layer, place in zip(layers, own, strict=True)
        if place is not None
    ]
    read = _moments(model, wanted, samples, progress)
    pending = zip(wanted, read, strict=True)
    current = next(pending, None)
    for number in range(len(groups)):
        found = []
        while current is not None and current[0][0] == number:
            (_, layer, place), moments = current
            found.append(Reader.of(layer, place, moments))
            current = next(pending, None)
        yield found


_Wanted = tuple[int, Layer, Indices]


def _moments(
    model: ir.Model,
    wanted: Sequence[_Wanted],
    samples: CalibrationSource,
    progress: Progress | None,
) -> Iterator[Moments]:
    """Yield what each layer is fed; as many are watched together as fit."""
    length = samples.known_length or len(samples)
    rest = list(wanted)
    while rest:
        room = BUDGET
        together: dict[tuple[str, Rows], Second] = {}
        keys: list[tuple[str, Rows]] = []
        for _, layer, _ in rest:
            key = (layer.inputs[0].name or "", layer.cut)
            room -= gram_bytes(layer) // 2 * (key not in together)
            if keys and room < 0:
                break
            keys.append(key)
            if key not in together:
                columns = Columns(layer.cut, layer.fan_in, length, len(together))
                few = length < 8
                together[key] = Second(columns, 1, layer.fan_in, all_samples=few)
        watchers: dict[str, list[Watcher]] = {}
        for (name, _), second in together.items():
            watchers.setdefault(name, []).append(second)
        collect(model, watchers, samples, progress=progress)
        for at, key in enumerate(keys):
            yield together[key].moments
            if key not in keys[at + 1 :]:
                del together[key]
        rest = rest[len(keys) :]


def _place(units: Units, group: Group, layer: Layer) -> Indices | None:
    """Return the place in a group of the unit of each input of a layer; None if it has none."""
    weight = layer.node.inputs[1]
    assert weight is not None
    labels = units.of((weight, 1 - layer.weights.axis))
    if labels is None:
        return None
    found = np.searchsorted(group.units, labels)
    found = np.where(found < len(group.units), found, 0)
    place = np.where(group.units[found] == labels, found, -1)
    if (place < 0).all():
        return None
    return np.repeat(place, layer.fan_in // place.size)
