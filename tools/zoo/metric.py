# SPDX-License-Identifier: Apache-2.0
"""What a labelled task gives: feeds to calibrate with, and metrics to score a session by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from burnish.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]

Run = Callable[[Arrays], Arrays]
"""Runs a model: input arrays by name to output arrays by name."""

Split = Literal["calibration", "evaluation"]
"""Passes may look at the calibration split; the evaluation split shares no sample with it."""


class Evaluate(Protocol):
    """How a metric scores a model: see `Metric.evaluate`."""

    def __call__(
        self, run: Run, *, split: Split = "evaluation", limit: int | None = None
    ) -> float: ...


@dataclass(frozen=True)
class Metric:
    """A number that says how well a model does a task.

    Attributes:
        name: As it is printed, such as "exact match".
        evaluate: Score `run` on the first `limit` samples of `split`; None means the task's
            usual number of samples.
    """

    name: str
    higher_is_better: bool
    evaluate: Evaluate


@dataclass(frozen=True)
class Task:
    """A labelled task of one model.

    Attributes:
        feeds: `feeds(n, seed)` gives `n` feeds of the calibration split, made one at a time.
        metrics: The first is the one a model is judged by.
    """

    feeds: Callable[[int, int], Iterable[Arrays]]
    metrics: tuple[Metric, ...]


def only(outputs: Arrays) -> np.ndarray:
    """The single output of a model, whatever it is called."""
    if len(outputs) != 1:
        raise InputError(f"this task scores a model with one output, not {len(outputs)}")
    return next(iter(outputs.values()))
