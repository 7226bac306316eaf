# SPDX-License-Identifier: Apache-2.0
"""Rotations without a batch, and with the tokens before batch or heads.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.attention.rotate_half import rotary
from burnish.testing import assert_refuses
from tests.passes.fuse.attention.conftest import (
    ANGLES,
    BY_EXPAND,
    EVERY_OTHER,
    HALVES,
    ROTARY,
    ROTARY_NUMBERS,
    ROTARY_PAIRED,
    ROTARY_SHAPES,
    STACK,
    TABLES,
    TURN,
    WANTS,
    Freeze,
    paired,
    rotated,
)


def test_tokens_before_heads(freeze: Freeze) -> None:
    """As GPT-J rotates: the heads are the third axis."""
    signature = ROTARY_PAIRED.replace("[N,4,S,8]", "[N,S,4,8]")
    tables = TABLES.replace("(c, one)", "(c, second)").replace("(s, one)", "(s, second)")
    node = rotated(paired(freeze, BY_EXPAND, tables, EVERY_OTHER, STACK, signature=signature))
    assert node.attributes["num_heads"].as_int() == 4


@pytest.mark.parametrize(
    ("x", "table"),
    [("S,4,8", "S,1,4"), ("4,S,8", "S,4"), ("4,S,8", "1,S,4")],
    ids=["heads behind", "heads before", "one row"],
)
def test_three_axes(freeze: Freeze, x: str, table: str) -> None:
    """As in the vision tower of Qwen2-VL."""
    signature = ROTARY.replace("N,4,S,8", x).replace("float[N,S,4] xa", f"float[{table}] xa")
    halves = HALVES.replace("last", "second")
    signature = signature.replace("float two", "float two, int64[1] second")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {halves} {TURN}"
    rotated(freeze(f"{signature} {{ {body} }}", opset=23, **ROTARY_NUMBERS, second=2))


def test_neighbours_on_three_axes(freeze: Freeze) -> None:
    signature = ROTARY_PAIRED.replace("N,4,S,8", "S,4,8").replace(
        "float[N,S,4] xa", "float[S,1,4] xa"
    )
    signature = signature.replace("int64[4] whole", "int64[3] whole")
    text = f"{BY_EXPAND} cos = Cos(a) sin = Sin(a) {EVERY_OTHER} {STACK}".replace("last", "second")
    shapes = {**ROTARY_SHAPES, "whole": [0, -1, 8]}
    node = rotated(freeze(f"{signature} {{ {text} }}", opset=23, **ROTARY_NUMBERS, **shapes))
    assert node.attributes["interleaved"].as_int() == 1


def test_tokens_before_batches(freeze: Freeze) -> None:
    """As in Wav2Vec2-Conformer."""
    signature = ROTARY.replace("N,4,S,8", "S,N,4,8").replace("N,S,4] xa", "S,1,1,4] xa")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    node = rotated(freeze(f"{signature} {{ {body} }}", opset=23, **ROTARY_NUMBERS))
    assert node.attributes["num_heads"].as_int() == 4


@pytest.mark.parametrize(
    ("x", "table", "reason"),
    [
        ("S,H,8", "S,1,4", "the number of heads is unknown"),
        ("4,S,8", "2,4,S,4", "the angles have more axes than what is rotated"),
        ("4,S,8", "4,S,4", "the angles are not alike for all heads"),
    ],
)
def test_what_is_refused_on_three_axes(freeze: Freeze, x: str, table: str, reason: str) -> None:
    signature = ROTARY.replace("float[N,4,S,8] x", f"float[{x}] x")
    signature = signature.replace("float[N,S,4] xa", f"float[{table}] xa")
    signature = signature.replace("float two", "float two, int64[1] second")
    halves = HALVES.replace("last", "second")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {halves} {TURN}"
    before = freeze(f"{signature} {{ {body} }}", opset=23, **ROTARY_NUMBERS, second=2)
    assert_refuses(rotary, before, reason, target=WANTS)
