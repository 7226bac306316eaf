# SPDX-License-Identifier: Apache-2.0
"""The table of everything in the zoo."""

from __future__ import annotations

from burnish.tools.zoo import packages
from burnish.tools.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="ppocrv6-rec",
        kind="model",
        summary="PP-OCRv6 text line recognizer: dynamic width, decomposed Gelu and LayerNorm",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR_REC,),
        task="burnish.tools.zoo.ocr:recognition",
        data=("dejavu",),
    ),
    Entry(
        name="ppocrv6-det",
        kind="model",
        summary="PP-OCRv6 text detector: HardSigmoid, Resize, every dimension dynamic",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR_DET,),
    ),
    Entry(
        name="dejavu",
        kind="data",
        summary="DejaVu fonts, which the text lines are drawn with",
        licence="Bitstream Vera (changes: public domain)",
        packages=(packages.DEJAVU,),
    ),
)
