# SPDX-License-Identifier: Apache-2.0
"""How much the units of a group matter, by their weights or by what flows through them.

l1, l2      sum of magnitudes, or root of the sum of squares, over all that is cut with a unit,
            each weight by its mean over the units: rows that make it and columns that read it count
            alike (H. Li et al., "Pruning Filters for Efficient ConvNets", 2017; grouped as in
            DepGraph)
activation  root mean square of the unit times the norm of the columns that read it: what its
            readers would lose (M. Sun et al., Wanda, 2023, summed over a unit); needs calibration
            data
reconstruction  what its readers would lose that the other units cannot make up for
            (`burnish.passes.prune.elimination`); needs calibration data
random      the baseline
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.constant import tensor_of
from burnish.passes.prune.coupling import Dim, sizes_of
from burnish.passes.prune.units import Group, Units
from burnish.passes.sketch import Array, Sketch

Scores = NDArray[np.float64]
CRITERIA = ("auto", "l1", "l2", "activation", "reconstruction", "random")

_MATRICES = {"Conv": 1, "ConvTranspose": 1, "FusedConv": 1, "Gemm": 1, "MatMul": 1, "Einsum": 1}
_VIEWS = frozenset({"Cast", "Identity", "Transpose"})


def matrices(units: Units, group: Group) -> list[Dim]:
    """Return the axes of weights of sums of products that a group cuts."""
    return [
        dim
        for found in group.classes
        for dim in units.members[found]
        if isinstance(dim[0], ir.Value) and is_matrix(dim[0])
    ]


def is_matrix(value: ir.Value) -> bool:
    """Whether a constant is what activations are multiplied with in sums of products."""
    tensor = tensor_of(value)
    if tensor is None or len(tensor.shape) < 2:
        return False
    return any(True for _ in readers(value))


def readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that a constant is a weight of, also behind a Transpose."""
    for node, slot in value.uses():
        if node.op_type in _VIEWS:
            yield from readers(node.outputs[0])
        elif node.op_type in _MATRICES and slot <= 1:
            yield node


def by_magnitude(units: Units, group: Group, order: int) -> Scores:
    """Score the units of a group by the magnitude of their weights.

    Args:
        units: The analysis.
        group: Of which the units are scored.
        order: 1 for sums of magnitudes, 2 for sums of squares.
    """
    place = np.searchsorted  # of a unit among those of the group, which are in order
    total = np.zeros(len(group.units))
    for value, axis in matrices(units, group):
        labels = units.of((value, axis))
        assert isinstance(value, ir.Value)
        tensor = tensor_of(value)
        assert tensor is not None
        assert labels is not None
        array = np.abs(tensor.numpy().astype(np.float64)) ** order
        each = array.sum(tuple(at for at in range(array.ndim) if at != axis))
        inside = np.isin(labels, group.units)
        at = place(group.units, labels[inside])
        sums = np.bincount(at, each[inside], len(group.units))
        mean = sums.mean()
        total += sums / mean if mean > 0 else 0
    return total ** (1 / order)


class MeanSquare(Sketch):
    """Sums squares along all axes but one."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: Any = 0.0
        self.count = 0

    def update(self, array: Array) -> None:
        """Observe an activation."""
        others = tuple(at for at in range(array.ndim) if at != self.axis)
        self.total = self.total + np.square(array, dtype=np.float64).sum(others)
        self.count += array.size // array.shape[self.axis]

    def merge(self, other: Self) -> None:
        self.total = self.total + other.total
        self.count += other.count


@dataclass(frozen=True)
class Reading:
    """A weight that reads units.

    Attributes:
        weight: The weight and its axis of inputs.
        data: What it is multiplied with, and the axis of the units.
    """

    weight: Dim
    data: Dim


def readings(units: Units, group: Group) -> Iterator[Reading]:
    """Yield how sums of products read the units of a group."""
    for value, axis in matrices(units, group):
        assert isinstance(value, ir.Value)
        for node in readers(value):
            data = node.inputs[0]
            if data is None or tensor_of(data) is not None:
                continue
            for own in range(len(sizes_of(data) or ())):
                found = units.class_of.get((data, own))
                reads = node.op_type != "ConvTranspose" or axis == 0
                same = found is not None and found == units.class_of[value, axis]
                if same and reads and not _makes(units, node, (value, axis)):
                    yield Reading((value, axis), (data, own))


def _makes(units: Units, node: ir.Node, weight: Dim) -> bool:
    """Whether an axis of a weight is that of its outputs, where both axes are coupled."""
    value, axis = weight
    if node.op_type in ("Conv", "FusedConv"):
        return axis == 0
    if node.op_type == "ConvTranspose":
        return axis == 1
    assert isinstance(value, ir.Value)
    swapped = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    if value not in node.inputs:  # behind a Transpose
        swapped = not swapped
    rank = len(sizes_of(value) or ())
    return axis == (rank - 2 if swapped else rank - 1)


def by_activation(
    units: Units, groups: Sequence[Group], squares: dict[tuple[str, int], MeanSquare]
) -> list[Scores]:
    """Score units by what their readers would lose; squares are of the values `watched`."""
    scores = []
    for group in groups:
        total = np.zeros(len(group.units))
        for reading in readings(units, group):
            (weight, axis), (data, own) = reading.weight, reading.data
            assert isinstance(weight, ir.Value)
            assert isinstance(data, ir.Value)
            tensor, labels = tensor_of(weight), units.of(reading.weight)
            assert tensor is not None
            assert labels is not None
            array = np.square(tensor.numpy(), dtype=np.float64)
            norms = array.sum(tuple(at for at in range(array.ndim) if at != axis))
            seen = squares[data.name or "", own]
            inside = np.isin(labels, group.units)
            at = np.searchsorted(group.units, labels[inside])
            energy = (norms * seen.total / max(seen.count, 1))[inside]
            sums = np.bincount(at, energy, len(group.units))
            mean = sums.mean()
            total += sums / mean if mean > 0 else 0
        scores.append(np.sqrt(total))
    return scores
