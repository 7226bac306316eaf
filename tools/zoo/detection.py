# SPDX-License-Identifier: Apache-2.0
"""Text detection: which pixels of a page belong to a line of text?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.tools.zoo.lines import Line, draw_lines
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np

PAGES = 40
"""Pages the metric reads unless told otherwise."""

SIZE = (320, 480)
"""Height and width of a page in pixels: multiples of the detector's stride of 32."""

THRESHOLD = 0.3
"""A pixel with a higher score is text; PP-OCR's own default."""


@dataclass(frozen=True)
class Page:
    """Lines of text on paper.

    Attributes:
        pixels: uint8 `[height, width, 3]`, RGB.
        text: bool `[height, width]`, the middle half of each line's height. PP-OCR's detector is
            trained to find lines shrunk to about that, so that neighbours stay apart.
    """

    pixels: np.ndarray
    text: np.ndarray


def detection(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's signature
    """Make the task of a text detector, on pages of lines drawn in the fonts among `files`.

    Metric: the F1 score of text pixels.
    """

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        for page in draw_pages("calibration", count, seed, files):
            yield {"x": preprocess(page.pixels)}

    def pixel_f1(run: Run, split: Split, count: int) -> float:
        right = found = wanted = 0
        for page in draw_pages(split, count, 0, files):
            marked = only(run({"x": preprocess(page.pixels)}))[0, 0] > THRESHOLD
            right += int((marked & page.text).sum())
            found += int(marked.sum())
            wanted += int(page.text.sum())
        return 2 * right / (found + wanted)

    return Task(feeds, (Metric("pixel F1", True, PAGES, pixel_f1),))


def draw_pages(split: Split, count: int, seed: int, files: Mapping[str, Path]) -> Iterator[Page]:
    """Draw `count` pages of a split: ten lines each, one below the other."""
    lines = draw_lines(split, 10 * count, seed, files)
    return (_page(tuple(islice(lines, 10))) for _ in range(count))


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Scale to -1..1, as PP-OCR does: float32 `[1, 3, height, width]`, BGR."""
    import numpy as np

    planes = pixels[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    return np.ascontiguousarray(planes[None] / 127.5 - 1.0)


def _page(lines: tuple[Line, ...]) -> Page:
    import numpy as np

    pixels = np.full((*SIZE, 3), 255, np.uint8)
    text = np.zeros(SIZE, bool)
    pitch = SIZE[0] // len(lines)
    for row, line in enumerate(lines):
        drawn = line.pixels[:pitch, : SIZE[1]]
        height, width, _ = drawn.shape
        top, left = row * pitch, row * 37 % (SIZE[1] - width + 1)
        pixels[top : top + height, left : left + width] = drawn
        quarter = (height - 2 * line.margin) // 4
        edge, side = line.margin + quarter, line.margin
        text[top + edge : top + height - edge, left + side : left + width - side] = True
    return Page(pixels, text)
