# SPDX-License-Identifier: Apache-2.0
"""What a labelled task gives: feeds to calibrate with, and metrics to score a session by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from burnish.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]

Run = Callable[[Arrays], Arrays]
"""Runs a model: input arrays by name to output arrays by name."""

Split = Literal["calibration", "evaluation"]
"""Passes may look at the calibration split; the evaluation split shares no sample with it."""


@dataclass(frozen=True)
class Metric:
    """A number that says how well a model does a task.

    Attributes:
        name: As it is printed, such as "exact match".
        samples: Samples it is measured on unless told otherwise.
        score: `score(run, split, count)` measures it on the first `count` samples of a split,
            or on all of them if there are fewer.
    """

    name: str
    higher_is_better: bool
    samples: int
    score: Callable[[Run, Split, int], float]

    def evaluate(self, run: Run, *, split: Split = "evaluation", limit: int | None = None) -> float:
        """Score a model.

        Args:
            run: Runs it; the `run` of any session.
            split: Which samples.
            limit: How many of them; `samples` by default.

        Raises:
            InputError: `limit` is less than 1, or the task has no labels in that split.
        """
        count = self.samples if limit is None else limit
        if count < 1:
            raise InputError(f"cannot score {self.name} on {count} samples")
        return self.score(run, split, count)


@dataclass(frozen=True)
class Task:
    """What a model is calibrated and judged with.

    Attributes:
        feeds: `feeds(n, seed)` gives `n` feeds of the calibration split, made one at a time.
        metrics: The first is the one the model is judged by; none for a model that is there for
            its structure.
    """

    feeds: Callable[[int, int], Iterable[Arrays]]
    metrics: tuple[Metric, ...]


def only(outputs: Arrays) -> np.ndarray:
    """The single output of a model, whatever it is called."""
    if len(outputs) != 1:
        raise InputError(f"this task scores a model with one output, not {len(outputs)}")
    return next(iter(outputs.values()))
