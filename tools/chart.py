# SPDX-License-Identifier: Apache-2.0
"""Horizontal bars as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from burnish.files import write_aside

_ROW, _LABEL, _BAR, _MARGIN = 18, 320, 420, 12
_COLOURS = ("#31688e", "#d0d4da")


def bars(path: Path, title: str, rows: Sequence[tuple[str, float, str]]) -> None:
    """Write a chart of shares.

    Args:
        path: The SVG file.
        title: Stands above.
        rows: Label, share from 0 to 1, and what is written behind the bar.

    Raises:
        InputError: it cannot be written.
    """
    height = 2 * _MARGIN + _ROW * (len(rows) + 2)
    width = _LABEL + _BAR + 260
    svg = ET.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        attrib={"font-family": "sans-serif", "font-size": "12"},
    )
    ET.SubElement(svg, "rect", width="100%", height="100%", fill="white")
    _text(svg, _MARGIN, _MARGIN + _ROW - 5, title, weight="bold")
    for index, (label, share, note) in enumerate(rows):
        top = _MARGIN + _ROW * (index + 2)
        _text(svg, _LABEL - 8, top + 12, label[-46:], anchor="end")
        for colour, length in zip(_COLOURS[::-1], (1.0, share), strict=True):
            size = {"width": f"{_BAR * length:.1f}", "height": str(_ROW - 4)}
            ET.SubElement(svg, "rect", x=str(_LABEL), y=str(top), fill=colour, attrib=size)
        _text(svg, _LABEL + _BAR + 8, top + 12, note)
    ET.indent(svg)
    with write_aside(path) as aside:
        aside.write_text(ET.tostring(svg, encoding="unicode") + "\n", encoding="utf-8")


def _text(
    svg: ET.Element, x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal"
) -> None:
    attributes = {"text-anchor": anchor, "font-weight": weight}
    ET.SubElement(svg, "text", x=str(x), y=str(y), attrib=attributes).text = text
