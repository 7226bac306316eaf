# SPDX-License-Identifier: Apache-2.0
"""Text orientation: is a line of text upright, or upside down?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.tools.zoo.lines import draw_lines
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only
from burnish.tools.zoo.recognition import preprocess

if TYPE_CHECKING:
    import numpy as np

LINES = 200
"""Lines the metric judges unless told otherwise."""

WIDTH = 192
"""Pixels; longer lines are cut off, shorter ones filled up with zeros, as PP-OCR does."""


def orientation(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's signature
    """Make the task of a classifier of orientation, on drawn lines, every other one turned.

    Metric: the share of lines whose orientation is found. Class 0 is upright, class 1 turned by
    half a circle.
    """

    def lines(split: Split, count: int, seed: int) -> Iterator[Arrays]:
        for index, line in enumerate(draw_lines(split, count, seed, files)):
            yield {"x": _strip(line.pixels[::-1, ::-1] if index % 2 else line.pixels)}

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        return lines("calibration", count, seed)

    def accuracy(run: Run, split: Split, count: int) -> float:
        found = (int(only(run(feed)).argmax()) for feed in lines(split, count, 0))
        return sum(answer == index % 2 for index, answer in enumerate(found)) / count

    return Task(feeds, (Metric("accuracy", True, LINES, accuracy),))


def _strip(pixels: np.ndarray) -> np.ndarray:
    """Scale to 48 px high, cut or fill up to 192 px: float32 `[1, 3, 48, 192]`, BGR."""
    import numpy as np

    planes = preprocess(pixels)[..., :WIDTH]
    return np.pad(planes, ((0, 0), (0, 0), (0, 0), (0, WIDTH - planes.shape[-1])))
