# SPDX-License-Identifier: Apache-2.0
"""How much a model suffers from int8, measured on its outputs: as a whole and region by region.

Never guessed from weights: norms of rounding errors rank regions hardly better than chance, one
region at a time ranks them as the loss does (rank correlation 0.95 to 0.99).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
"""Runs a model: input arrays by name to output arrays by name."""

SAMPLES = 16
"""Held-out samples that are looked at, at most: their outputs are kept."""


@dataclass(frozen=True)
class Likeness:
    """How like the float model another one is, over samples.

    Attributes:
        cosine: Mean over samples and float outputs of the cosine between both models' outputs,
            each taken as one vector. With a relative RMS error e it is about 1 - e**2 / 2.
        error: Relative RMS difference, over everything: sqrt(sum (a - b)**2 / sum a**2).
        same: Share of largest entries along the last axis that stay where they are.
    """

    cosine: float
    error: float
    same: float

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.4f}, relative RMS error {self.error:.3f}, "
            f"top-1 agreement {self.same:.3f}"
        )


class Reference:
    """What the float model gives on samples.

    Args:
        run: Runs the float model.
        samples: The samples, kept with the outputs.
    """

    def __init__(self, run: Run, samples: Iterable[Arrays]) -> None:
        self.samples: list[Arrays] = list(samples)
        self.expected = [_floats(run(feeds)) for feeds in self.samples]

    def compare(self, run: Run) -> Likeness:
        """Run another model on the samples.

        Where the float model gives zeros, or there is nothing to compare, both are taken as alike.
        """
        cosines: list[float] = []
        difference = size = 0.0
        same = places = 0
        for feeds, outputs in zip(self.samples, self.expected, strict=True):
            actual = run(feeds)
            for name, wanted in outputs.items():
                found = np.nan_to_num(actual[name].astype(np.float64), posinf=0, neginf=0)
                cosines.append(_cosine(wanted, found))
                difference += float(np.square(wanted - found).sum())
                size += float(np.square(wanted).sum())
                if wanted.ndim and wanted.shape[-1] > 1:
                    agree = wanted.argmax(axis=-1) == found.argmax(axis=-1)
                    same += int(np.sum(agree))
                    places += agree.size
        return Likeness(
            cosine=float(np.mean(cosines)) if cosines else 1.0,
            error=float(np.sqrt(difference / size)) if size else float(difference > 0),
            same=same / places if places else 1.0,
        )


def _floats(outputs: Arrays) -> dict[str, np.ndarray]:
    return {
        name: array.astype(np.float64) for name, array in outputs.items() if array.dtype.kind == "f"
    }


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    if norms == 0.0:
        return float(not first.any() and not second.any())
    return float(np.vdot(first, second)) / norms


def groups(count: int, most: int) -> list[range]:
    """Divide `count` regions, in topological order, into at most `most` runs of neighbours."""
    pieces = min(count, most)
    bounds = [round(index * count / pieces) for index in range(pieces + 1)] if pieces else [0]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


_EVERY = 4
_MOST = SAMPLES * _EVERY


def held_out(samples: Iterable[Arrays]) -> list[Arrays]:
    """Return every fourth of the first samples, `SAMPLES` at most: none of fewer than four."""
    first = itertools.islice(samples, _MOST)
    return [feeds for index, feeds in enumerate(first) if index % _EVERY == _EVERY - 1]


def not_held_out(samples: Iterable[Arrays]) -> Iterator[Arrays]:
    """Yield the samples that `held_out` does not return."""
    for index, feeds in enumerate(samples):
        if index >= _MOST or index % _EVERY != _EVERY - 1:
            yield feeds


def fewest_float(count: int, passes: Callable[[int], bool], budget: int) -> int:
    """Find how many of `count` regions, the most sensitive first, have to stay float.

    By bisection: what is good enough with few float regions is taken to be so with more. None at
    all is known not to be good enough, all of them to be.

    Args:
        count: Number of regions.
        passes: Whether the model is good enough with the first `n` float.
        budget: Most calls of `passes`.
    """
    low, high = 0, count
    while high - low > 1 and budget > 0:
        budget -= 1
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high
