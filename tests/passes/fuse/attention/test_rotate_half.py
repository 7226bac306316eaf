# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in the spelling of transformers.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.attention.rotate_half import rotary
from burnish.testing import assert_refuses, assert_same_outputs, run_pass
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
    TURNS_SLOWLY,
    WANTS,
    Freeze,
    paired,
    rotated,
)


def model(freeze: Freeze, *parts: str) -> ir.Model:
    """The parts of a rotation, one behind another."""
    return freeze(ROTARY + "{" + " ".join(parts) + "}", opset=23, **ROTARY_NUMBERS)


@pytest.mark.parametrize(
    "tables",
    [
        TABLES,
        "c = Cos(a) s = Sin(a) d = Mul(c, two) t = Mul(s, two)"
        " cos = Unsqueeze(d, one) sin = Unsqueeze(t, one)",
    ],
    ids=["plain", "scaled"],
)
def test_rotary(freeze: Freeze, tables: str) -> None:
    before = model(freeze, ANGLES, tables, HALVES, TURN)
    original = before.clone()
    run_pass(rotary, before, target=WANTS)
    assert_same_outputs(original, before)
    operators = [node.op_type for node in before.graph]
    assert operators.count("RotaryEmbedding") == 1
    assert "Neg" not in operators


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("a = Identity(xf)", TABLES, HALVES, TURN), "not known to be alike"),
        ((ANGLES, TABLES, HALVES.replace("half", "one"), TURN), "are not the two halves"),
        (
            (ANGLES, TABLES, HALVES.replace("last, one", "last, half"), TURN),
            "are not the two halves",
        ),
    ],
)
def test_what_is_no_rotation(freeze: Freeze, parts: tuple[str, ...], reason: str) -> None:
    assert_refuses(rotary, model(freeze, *parts), reason, target=WANTS)


def test_halves_of_an_odd_size_are_none(freeze: Freeze) -> None:
    signature = ROTARY.replace("N,4,S,8", "N,4,S,5").replace("float two", "float[7,5] a")
    signature = signature.replace("[N,4,S,5]", "[N,4,7,5]")
    numbers = {**ROTARY_NUMBERS, "half": 2, "a": np.ones((7, 5), np.float32)}
    text = f"{signature} {{ cos = Cos(a) sin = Sin(a) {HALVES} {TURN} }}"
    assert_refuses(rotary, freeze(text, opset=23, **numbers), "not the two halves", target=WANTS)


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    before = model(freeze, ANGLES, TABLES, HALVES, TURN)
    assert_refuses(rotary, before, "runs it no faster fused (0.90x)", target=TURNS_SLOWLY)


SPLIT = "x1, x2 = Split<axis=-1, num_outputs=2>(x)"
BY_CONCAT = "b = Unsqueeze(xa, back) e = Concat<axis=-1>(b, b) a = Reshape(e, merged)"
BY_TILE = "b = Unsqueeze(xa, back) e = Tile(b, copies) a = Reshape(e, merged)"


def test_halves_by_split(freeze: Freeze) -> None:
    rotated(model(freeze, ANGLES, TABLES, SPLIT, TURN))


@pytest.mark.parametrize("angles", [BY_EXPAND, BY_CONCAT, BY_TILE])
def test_neighbours(freeze: Freeze, angles: str) -> None:
    node = rotated(paired(freeze, angles, TABLES, EVERY_OTHER, STACK))
    assert node.attributes["interleaved"].as_int() == 1


TAKEN = STACK.replace("(x2)", "(odd)").replace("(x1,", "(even,")
FROM_PAIRS = {
    "gather": "m = Reshape(x, apart) even = Gather<axis=-1>(m, i) odd = Gather<axis=4>(m, j)",
    "split": "m = Reshape(x, apart) k, l = Split<axis=-1, num_outputs=2>(m)"
    " even = Squeeze(k, back) odd = Squeeze(l, back)",
}
TAKING = ROTARY_PAIRED.replace("float two,", "float two, int64 i, int64 j, int64[5] apart,")
APART = {**ROTARY_NUMBERS, **ROTARY_SHAPES, "apart": [0, 0, 0, 4, 2]}


@pytest.mark.parametrize("parts", FROM_PAIRS.values(), ids=list(FROM_PAIRS))
def test_neighbours_taken_from_pairs(freeze: Freeze, parts: str) -> None:
    """As x-transformers writes them."""
    text = f"{TAKING} {{ {BY_CONCAT} {TABLES} {parts} {TAKEN} }}"
    node = rotated(freeze(text, opset=23, **APART, i=0, j=1))
    assert node.attributes["interleaved"].as_int() == 1


def test_neighbours_in_the_other_order_are_refused(freeze: Freeze) -> None:
    text = f"{TAKING} {{ {BY_CONCAT} {TABLES} {FROM_PAIRS['gather']} {TAKEN} }}"
    before = freeze(text, opset=23, **APART, i=1, j=0)
    assert_refuses(rotary, before, "the slices are not the two halves", target=WANTS)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((ANGLES, TABLES, EVERY_OTHER, STACK), "not known to be alike"),
        ((BY_EXPAND, TABLES, HALVES, STACK), "are not the two halves"),
    ],
    ids=["halves' angles", "halves"],
)
def test_what_are_no_neighbours(freeze: Freeze, parts: tuple[str, ...], reason: str) -> None:
    assert_refuses(rotary, paired(freeze, *parts), reason, target=WANTS)


def test_neighbours_that_keep_their_places_are_no_rotation(freeze: Freeze) -> None:
    before = paired(freeze, BY_EXPAND, TABLES, EVERY_OTHER, STACK.replace("(u, w)", "(w, u)"))
    run_pass(rotary, before, target=WANTS)
    assert "RotaryEmbedding" not in [node.op_type for node in before.graph]
