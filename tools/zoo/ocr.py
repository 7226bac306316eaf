# SPDX-License-Identifier: Apache-2.0
"""Text recognition on drawn lines: the labels are exact by construction.

A line is a few words and numbers drawn in one DejaVu face at 9 to 16 px, then rotated a little,
blurred and covered with noise, as a scan or a screenshot would show it.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import require
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only

if TYPE_CHECKING:
    import numpy as np

LINES = 300
"""Lines a metric reads unless told otherwise."""

HEIGHT = 48
"""Pixels; what the recognizer was trained with. The width follows from the line's own."""


@dataclass(frozen=True)
class Line:
    """A drawn line. `pixels` is uint8 `[height, width, 3]`."""

    text: str
    pixels: np.ndarray


def recognition(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of the recognizer in `model`, with lines drawn in the fonts among `files`.

    Metrics: the share of lines read without any error, and the character error rate (edit
    distance over the number of characters of the labels).
    """
    ttf = tuple(path for name, path in sorted(files.items()) if name.endswith(".ttf"))
    words = tuple(re.findall(r"[A-Za-z]{2,}[,.]?", files["LICENSE_DEJAVU"].read_text()))

    def lines(split: Split, count: int, seed: int) -> Iterator[Line]:
        return (draw(split, seed, index, words, ttf) for index in range(count))

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        return ({"x": preprocess(line.pixels)} for line in lines("calibration", count, seed))

    def readings(run: Run, split: Split, limit: int | None) -> Iterator[tuple[str, str]]:
        alphabet = read_alphabet(model)
        for line in lines(split, LINES if limit is None else limit, 0):
            scores = only(run({"x": preprocess(line.pixels)}))
            yield line.text, ctc_greedy(scores[0], alphabet)

    def exact_match(run: Run, *, split: Split = "evaluation", limit: int | None = None) -> float:
        right = [label == read for label, read in readings(run, split, limit)]
        return sum(right) / len(right)

    def character_error(
        run: Run, *, split: Split = "evaluation", limit: int | None = None
    ) -> float:
        pairs = list(readings(run, split, limit))
        return sum(edit_distance(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)

    return Task(
        feeds,
        (
            Metric("exact match", True, exact_match),
            Metric("character error rate", False, character_error),
        ),
    )


def draw(
    split: Split, seed: int, index: int, words: tuple[str, ...], fonts: tuple[Path, ...]
) -> Line:
    """Draw line `index` of a split. The same arguments give the same pixels."""
    require("PIL", extra="zoo")
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    rng = np.random.default_rng([seed, index, split == "calibration"])
    text = _text(rng, words)
    while _split_of(text) != split:
        text = _text(rng, words)

    font = ImageFont.truetype(
        fonts[rng.integers(len(fonts))],
        int(rng.integers(9, 17)),
        # The other engine kerns, and is only there where the system has its library.
        layout_engine=ImageFont.Layout.BASIC,
    )
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(3, 7))
    ink = tuple(int(value) for value in rng.integers(0, 90, 3))
    paper = tuple(int(value) for value in rng.integers(200, 256, 3))
    size = (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin)
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=ink)
    # A long line turned by the same angle would leave its strip, so the angle follows the slope.
    image = image.rotate(
        math.degrees(rng.uniform(-3.0, 3.0) / size[0]),
        resample=Image.Resampling.BICUBIC,
        fillcolor=paper,
    )
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.2)))
    clean = np.asarray(image, dtype=np.float64)
    noisy = clean + rng.normal(0.0, rng.uniform(0.0, 24.0), clean.shape)
    return Line(text, noisy.round().clip(0, 255).astype(np.uint8))


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


def _text(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """Two to five words of running text, one in three of them replaced by a number."""
    start, count = int(rng.integers(len(words) - 5)), int(rng.integers(2, 6))
    chosen = [_number(rng) if rng.random() < 1 / 3 else w for w in words[start : start + count]]
    return " ".join(chosen)


def _number(rng: np.random.Generator) -> str:
    """An integer, an amount or a date."""
    value = int(rng.integers(10**6))
    day, month, year = value % 31 + 1, value % 12 + 1, 2000 + value % 100
    return (f"{value}", f"{value / 100:.2f}", f"{day:02}/{month:02}/{year}")[rng.integers(3)]


def _split_of(text: str) -> Split:
    """The split is a function of the text, so no text can be in both."""
    return "calibration" if zlib.crc32(text.encode()) % 2 else "evaluation"
