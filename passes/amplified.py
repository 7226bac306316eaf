# SPDX-License-Identifier: Apache-2.0
"""Differences that a model makes out of rounding alone, told by what other roundings do to it.

Rounding to integers inside a model turns a difference in the last place into a whole step, which
later layers amplify; a mean taken off numbers that are nearly equal leaves little else. How far is
measured: the runtime's own optimizations, too, change nothing but rounding. Where they happen to
change little, the model is run with other roundings (`burnish.passes.otherwise`).

What they do to an output, on the same sample, a rewrite may do twice, and it may do it in the same
places: a channel or a row that no rounding moves must stay. Places are the slices along each axis.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.backends.numeric import Array, Difference, OutputDifference
    from burnish.backends.onnxruntime import Optimize

# Draws of other roundings. The more there are, the rarer is it that one more moves a slice several
# times as far as all of them: with 8 that are normally distributed, about once in 20,000.
_ROUNDINGS = 8
_FURTHER = 2.0
_FURTHER_IN_SLICE = 4.0
# Elements of a slice that single steps between integers may move anywhere.
_FEW = 8
# The relative RMS difference excused at most, by what shows it. The runtime is what runs the model
# afterwards: what it does is excused however far it goes.
_MOST_BY_RUNTIME = math.inf
_MOST_BY_ROUNDING = 1e-3
# What chooses by comparing numbers gives all else where two are nearly equal, however little they
# change: there, other roundings tell as much as the runtime does.
_CHOOSING = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "Unique"})

NOTHING_TOLD = 1.0
"""Relative RMS difference from which on zeros in place of an output would be excused."""


@dataclass(frozen=True)
class Sample:
    """Outputs that differ.

    Attributes:
        feeds: Inputs that they were computed from.
        expected: What the reference gives.
        actual: What the transformed model gives.
        difference: Of the two.
    """

    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    actual: Mapping[str, Array]
    difference: Difference


@dataclass
class _Reach:
    """How far rounding alone was seen to move one output on one sample.

    Attributes:
        allowed: Relative RMS difference.
        along: RMS difference of each slice, axis by axis.
    """

    allowed: float = 0.0
    along: list[NDArray[np.float64]] = field(default_factory=list)

    def extend(self, difference: OutputDifference, moved: NDArray[np.float64], most: float) -> None:
        """Take in what another rounding did."""
        self.allowed = max(self.allowed, min(_FURTHER * difference.rms_rel, most))
        seen = _along(moved)
        self.along = [np.maximum(*pair) for pair in zip(self.along or seen, seen, strict=True)]

    def covers(self, difference: OutputDifference, sample: Sample) -> bool:
        """Whether rounding explains a difference, in size and place."""
        from burnish.backends.numeric import outside

        if difference.problem is not None or difference.rms_rel > self.allowed:
            return False
        expected, actual = sample.expected[difference.name], sample.actual[difference.name]
        beyond, axes = outside(expected, actual), range(expected.ndim)
        moved = _along(_moved(expected, actual))
        for axis, (found, reach) in enumerate(zip(moved, self.along, strict=True)):
            others = tuple(other for other in axes if other != axis)
            many = np.count_nonzero(beyond, axis=others) > _FEW
            if (many & (found > _FURTHER_IN_SLICE * reach)).any():
                return False
        return True


def allowance(reference: ir.Model, samples: Sequence[Sample]) -> float | OutputDifference:
    """Find out whether rounding explains how far a model is off.

    Args:
        reference: What gave the expected outputs; the same each run.
        samples: Where it is further off than its own rounding allows.

    Returns:
        The largest relative RMS difference that is allowed to an output, if all are explained, or
        else the first output that is not.
    """
    from burnish.backends.numeric import compare_outputs

    reaches: list[dict[str, _Reach]] = [
        {output.name: _Reach() for output in sample.difference.outputs if not output.ok}
        for sample in samples
    ]
    beyond: OutputDifference | None = None
    for model, level, most in _roundings(reference):
        for index, rounded in _run(model, level, samples):
            expected = samples[index].expected
            for output in compare_outputs(expected, rounded).outputs:
                reach = reaches[index].get(output.name)
                if reach is not None and output.problem is None:
                    moved = _moved(expected[output.name], rounded[output.name])
                    reach.extend(output, moved, most)
        beyond = next(_unexplained(samples, reaches), None)
        if beyond is None:
            break
    if beyond is not None:
        return beyond
    return max(reach.allowed for each in reaches for reach in each.values())


def _roundings(reference: ir.Model) -> Iterator[tuple[ir.Model, Optimize, float]]:
    """Yield models that round otherwise, how the runtime is to optimize them, and what to allow."""
    from burnish.passes.otherwise import rounded_otherwise

    yield reference, "all", _MOST_BY_RUNTIME
    yield reference, "basic", _MOST_BY_RUNTIME
    chooses = any(node.op_type in _CHOOSING for node in reference.graph.all_nodes())
    most = math.inf if chooses else _MOST_BY_ROUNDING
    for seed in range(_ROUNDINGS):
        yield rounded_otherwise(reference, seed), "off", most


def _run(
    model: ir.Model, level: Optimize, samples: Sequence[Sample]
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Run samples, and yield the outputs with the sample's index.

    A sample that does not run so is left out, and then excused nothing.
    """
    from burnish.backends import onnxruntime

    with (
        contextlib.suppress(BurnishError),
        onnxruntime.session(model, optimize=level, prepack=False) as session,
    ):
        for index, sample in enumerate(samples):
            with contextlib.suppress(BurnishError):
                yield index, session.run(sample.feeds)


def _unexplained(
    samples: Sequence[Sample], reaches: Sequence[Mapping[str, _Reach]]
) -> Iterator[OutputDifference]:
    for sample, known in zip(samples, reaches, strict=True):
        for output in sample.difference.outputs:
            if not (output.ok or known[output.name].covers(output, sample)):
                yield output


def _moved(expected: Array, actual: Array) -> NDArray[np.float64]:
    """Return how far each element is off; 1 where a string is another."""
    if expected.dtype.kind in "OUS":
        return np.not_equal(expected, actual).astype(np.float64)
    same = (expected == actual) | ((expected != expected) & (actual != actual))
    kind = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        off: NDArray[np.float64] = np.abs(actual.astype(kind) - expected.astype(kind))
    return np.where(same, 0.0, off)


def _along(moved: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the RMS of each slice, axis by axis."""
    squares, axes = np.square(moved), range(moved.ndim)
    return [
        np.sqrt(squares.mean(axis=tuple(other for other in axes if other != axis))) for axis in axes
    ]
