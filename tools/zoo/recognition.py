# SPDX-License-Identifier: Apache-2.0
"""Text recognition: lines of text, read by CTC."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.tools.zoo.lines import draw_lines
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np

LINES = 300
"""Lines a metric reads unless told otherwise."""

HEIGHT = 48
"""Pixels; what the recognizer was trained with. The width follows from the line's own."""


def recognition(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of the recognizer in `model`, with lines drawn in the fonts among `files`.

    Metrics: the share of lines read without any error, and the character error rate (edit
    distance over the number of characters of the labels).
    """

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        lines = draw_lines("calibration", count, seed, files)
        return ({"x": preprocess(line.pixels)} for line in lines)

    def read(run: Run, split: Split, count: int) -> Iterator[tuple[str, str]]:
        alphabet = read_alphabet(model)
        for line in draw_lines(split, count, 0, files):
            scores = only(run({"x": preprocess(line.pixels)}))
            yield line.text, ctc_greedy(scores[0], alphabet)

    def exact_match(run: Run, split: Split, count: int) -> float:
        return sum(label == reading for label, reading in read(run, split, count)) / count

    def character_error(run: Run, split: Split, count: int) -> float:
        pairs = list(read(run, split, count))
        return sum(edit_distance(*pair) for pair in pairs) / sum(len(label) for label, _ in pairs)

    return Task(
        feeds,
        (
            Metric("exact match", True, LINES, exact_match),
            Metric("character error rate", False, LINES, character_error),
        ),
    )


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Scale to 48 px high and to -1..1, as PP-OCR does: float32 `[1, 3, 48, width]`, BGR."""
    import numpy as np
    from PIL import Image

    height, width, _ = pixels.shape
    scaled = Image.fromarray(pixels).resize(
        (math.ceil(HEIGHT * width / height), HEIGHT), Image.Resampling.BILINEAR
    )
    planes = np.asarray(scaled, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None] / 127.5 - 1.0)


def read_alphabet(model: Path) -> tuple[str, ...]:
    """The characters by class: the blank, those of the metadata key `character`, the space."""
    import onnx

    metadata = {p.key: p.value for p in onnx.load(model, load_external_data=False).metadata_props}
    return ("", *metadata["character"].split("\n"), " ")


def ctc_greedy(scores: np.ndarray, alphabet: tuple[str, ...]) -> str:
    """Read scores `[steps, classes]`: the best class of each step, repeats merged, blanks out."""
    best = scores.argmax(axis=1)
    kept = [k for i, k in enumerate(best) if k and (i == 0 or k != best[i - 1])]
    return "".join(alphabet[k] for k in kept)


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions from `a` to `b` (Levenshtein's distance)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
