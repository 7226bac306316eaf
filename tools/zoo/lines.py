# SPDX-License-Identifier: Apache-2.0
"""Drawn lines of text, whose labels are exact by construction.

A line is a few words and numbers in one DejaVu face at 9 to 16 px, turned a little, blurred and
covered with noise, as a scan or a screenshot would show it.
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
from burnish.tools.zoo.metric import Split

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Line:
    """A drawn line.

    Attributes:
        pixels: uint8 `[height, width, 3]`, RGB.
        margin: Pixels of paper around the text on each side.
    """

    text: str
    pixels: np.ndarray
    margin: int


def draw_lines(split: Split, count: int, seed: int, files: Mapping[str, Path]) -> Iterator[Line]:
    """Draw `count` lines of a split with the fonts of the entry `dejavu`, one at a time.

    The words are those of the fonts' licence. The same arguments give the same pixels.
    """
    fonts = tuple(path for name, path in sorted(files.items()) if name.startswith("DejaVu"))
    words = tuple(re.findall(r"[A-Za-z]{2,}[,.]?", files["LICENSE_DEJAVU"].read_text()))
    return (_draw(split, seed, index, words, fonts) for index in range(count))


def _draw(
    split: Split, seed: int, index: int, words: tuple[str, ...], fonts: tuple[Path, ...]
) -> Line:
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
    return Line(text, noisy.round().clip(0, 255).astype(np.uint8), margin)


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
