# SPDX-License-Identifier: Apache-2.0
"""How like the model it was made from a model is: metrics that need no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, only

if TYPE_CHECKING:
    import numpy as np

Feeds = Callable[[Split, int], Iterable[Arrays]]
"""Gives the first feeds of a split."""


def agreement(original: Path, feeds: Feeds, samples: int) -> Metric:
    """Make the metric of a model that decides: the share of decisions that stay the same.

    A decision is the largest value along the output's last axis.

    Args:
        original: The model as fetched. It runs with the runtime's own optimizations off.
        feeds: What both run on.
        samples: Feeds it is measured on by default.
    """
    import numpy as np

    def same(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
        return np.asarray(expected.argmax(axis=-1) == actual.argmax(axis=-1))

    return Metric("agreement", True, samples, _against(original, feeds, same))


def cosine(original: Path, feeds: Feeds, samples: int) -> Metric:
    """Make the metric of a model that gives vectors: the mean cosine between old and new.

    A vector lies along the output's last axis. The arguments are those of `agreement`.
    """
    import numpy as np

    def cosines(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(actual, axis=-1)
        return np.asarray((expected * actual).sum(axis=-1) / np.maximum(norms, 1e-30))

    return Metric("cosine", True, samples, _against(original, feeds, cosines))


def _against(
    original: Path, feeds: Feeds, compare: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[[Run, Split, int], float]:
    """The mean of `compare(expected, actual)` over everything it gives."""

    def score(run: Run, split: Split, count: int) -> float:
        from burnish.backends import onnxruntime

        total, size = 0.0, 0
        with onnxruntime.session(original) as session:
            for sample in feeds(split, count):
                scores = compare(only(session.run(sample)), only(run(sample)))
                total += float(scores.sum())
                size += scores.size
        return total / size

    return score
