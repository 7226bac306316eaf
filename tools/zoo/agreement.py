# SPDX-License-Identifier: Apache-2.0
"""How often a model decides as the one it was made from: a metric that needs no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, only


def agreement(
    original: Path, feeds: Callable[[Split, int], Iterable[Arrays]], samples: int
) -> Metric:
    """Make the metric: the share of decisions (largest of the last axis) that are the same.

    Args:
        original: The model as fetched. It runs with the runtime's own optimizations off.
        feeds: Gives the first feeds of a split.
        samples: Feeds it is measured on by default.
    """

    def score(run: Run, split: Split, count: int) -> float:
        from burnish.backends import onnxruntime

        same = total = 0
        with onnxruntime.session(original) as session:
            for sample in feeds(split, count):
                expected = only(session.run(sample)).argmax(axis=-1)
                same += int((only(run(sample)).argmax(axis=-1) == expected).sum())
                total += expected.size
        return same / total

    return Metric("agreement", True, samples, score)
