# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in the spelling of transformers.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.attention.rotary import rotary, rotary_joins_heads, rotary_part
from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    run_pass,
)

Freeze = Callable[..., ir.Model]

CPU = Target.parse("cpu")
WANTS = dataclasses.replace(CPU, preferences=())
WANTS_NOT = dataclasses.replace(
    CPU, preferences=(Preference("RotaryEmbedding", False, 0.9), *CPU.preferences)
)
SIGNATURE = (
    "g (float[N,4,S,8] x, float[N,S,4] xa, float[N,S,8] xf, int64[1] zero, int64[1] one,"
    " int64[1] half, int64[1] end, int64[1] last, float two) => (float[N,4,S,8] y)"
)
NUMBERS = {"zero": 0, "one": 1, "half": 4, "end": 2**63 - 1, "last": 3, "two": 2}
ANGLES = "a = Concat<axis=-1>(xa, xa)"
TABLES = "c = Cos(a) s = Sin(a) cos = Unsqueeze(c, one) sin = Unsqueeze(s, one)"
HALVES = "x1 = Slice(x, zero, half, last, one) x2 = Slice(x, half, end, last, one)"
TURN = "n = Neg(x2) r = Concat<axis=-1>(n, x1) p = Mul(x, cos) q = Mul(r, sin) y = Add(p, q)"


def model(freeze: Freeze, *parts: str) -> ir.Model:
    """The parts of a rotation, one behind another."""
    return freeze(SIGNATURE + "{" + " ".join(parts) + "}", opset=23, **NUMBERS)


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


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    before = model(freeze, ANGLES, TABLES, HALVES, TURN)
    assert_refuses(rotary, before, "runs it no faster fused (0.90x)", target=WANTS_NOT)


# --- other spellings ---------------------------------------------------------------------------

SPLIT = "x1, x2 = Split<axis=-1, num_outputs=2>(x)"
# Neighbours swap places: [-x1, x0, -x3, x2, ...].
EVERY_OTHER = "x1 = Slice(x, zero, end, last, pair) x2 = Slice(x, one, end, last, pair)"
STACK = (
    "n = Neg(x2) u = Unsqueeze(n, back) w = Unsqueeze(x1, back) s2 = Concat<axis=-1>(u, w)"
    " r = Reshape(s2, whole) p = Mul(x, cos) q = Mul(r, sin) y = Add(p, q)"
)
BY_EXPAND = "b = Unsqueeze(xa, back) e = Expand(b, twice) a = Reshape(e, merged)"
BY_CONCAT = "b = Unsqueeze(xa, back) e = Concat<axis=-1>(b, b) a = Reshape(e, merged)"
BY_TILE = "b = Unsqueeze(xa, back) e = Tile(b, copies) a = Reshape(e, merged)"
PAIRED = SIGNATURE.replace(
    "float two)",
    "float two, int64[1] pair, int64[1] back, int64[4] whole,"
    " int64[4] twice, int64[4] copies, int64[3] merged, int64[1] second)",
)
SHAPES = {"pair": [2], "back": [-1], "whole": [0, 0, -1, 8], "twice": [1, 1, 1, 2]}
SHAPES |= {"copies": [1, 1, 1, 2], "merged": [0, 0, 8], "second": [2]}


def paired(freeze: Freeze, *parts: str, signature: str = PAIRED) -> ir.Model:
    return freeze(signature + "{" + " ".join(parts) + "}", opset=23, **NUMBERS, **SHAPES)


def rotated(before: ir.Model) -> ir.Node:
    """Run the rule; check the numbers; return the one RotaryEmbedding."""
    original = before.clone()
    run_pass(rotary, before, target=WANTS)
    assert_same_outputs(original, before)
    (node,) = [node for node in before.graph if node.op_type == "RotaryEmbedding"]
    return node


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
TAKING = PAIRED.replace("float two,", "float two, int64 i, int64 j, int64[5] apart,")
APART = {**NUMBERS, **SHAPES, "apart": [0, 0, 0, 4, 2]}


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


def test_tokens_before_heads(freeze: Freeze) -> None:
    """As GPT-J rotates: the heads are the third axis."""
    signature = PAIRED.replace("[N,4,S,8]", "[N,S,4,8]")
    tables = TABLES.replace("(c, one)", "(c, second)").replace("(s, one)", "(s, second)")
    node = rotated(paired(freeze, BY_EXPAND, tables, EVERY_OTHER, STACK, signature=signature))
    assert node.attributes["num_heads"].as_int() == 4


@pytest.mark.parametrize(
    ("tables", "shape"),
    [("cos = Cos(a) sin = Sin(a)", "S,4"), ("cos = Cos(a) sin = Sin(a)", "1,S,4")],
)
def test_tables_of_fewer_axes(freeze: Freeze, tables: str, shape: str) -> None:
    signature = SIGNATURE.replace("float[N,S,4] xa", f"float[{shape}] xa")
    before = freeze(signature + f"{{ {ANGLES} {tables} {HALVES} {TURN} }}", opset=23, **NUMBERS)
    rotated(before)


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


def test_angles_that_differ_by_head_are_refused(freeze: Freeze) -> None:
    signature = SIGNATURE.replace("float[N,S,4] xa", "float[N,4,S,4] xa")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    before = freeze(f"{signature} {{ {body} }}", opset=23, **NUMBERS)
    assert_refuses(rotary, before, "the angles are not alike for all heads", target=WANTS)


def test_one_angle_for_all_tokens_is_refused(freeze: Freeze) -> None:
    """It is broadcast over the tokens, which the operator does not do."""
    signature = SIGNATURE.replace("float[N,S,4] xa", "float[N,1,4] xa")
    before = freeze(f"{signature} {{ {ANGLES} {TABLES} {HALVES} {TURN} }}", opset=23, **NUMBERS)
    assert_refuses(rotary, before, "the angles are not alike for all heads", target=WANTS)


# --- parts -------------------------------------------------------------------------------------

PART = (
    '<ir_version: 10, opset_import: ["" : 23]> g (float[N,3,S,8] x, float[N,S,%d] c,'
    " float[N,S,%d] s) => (float[N,3,S,8] y) <int64[1] zero = {0}, int64[1] cut = {%d},"
    " int64[1] rest = {%d}, int64[1] end = {8}, int64[1] last = {3}> {"
)
PARTS = "a = Slice(x, zero, cut, last) b = Slice(x, rest, end, last)"


def test_a_part_that_is_rotated() -> None:
    header = PART % (2, 2, 4, 4)
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    signature = header.partition("<int64[1]")[0]
    after = parse(f"{signature} {{ y = RotaryEmbedding<rotary_embedding_dim=4>(x, c, s) }}")
    assert_rewrites(rotary_part, before, after, target=WANTS)


def test_a_part_on_three_axes() -> None:
    header = (
        '<ir_version: 10, opset_import: ["" : 23]> g (float[N,S,3,8] x, float[N,S,2] c,'
        " float[N,S,2] s) => (float[N,S,3,8] y) <int64[1] zero = {0}, int64[1] cut = {4},"
        " int64[1] end = {8}, int64[1] last = {3}, int64[3] j = {0, 0, -1},"
        " int64[4] h = {0, 0, 3, -1}> {"
    )
    before = parse(
        f"{header} a = Slice(x, zero, cut, last) b = Slice(x, cut, end, last) f = Reshape(a, j)"
        " r = RotaryEmbedding<num_heads=3>(f, c, s) p = Reshape(r, h) y = Concat<axis=-1>(p, b) }"
    )
    original = before.clone()
    run_pass(rotary_part, before, target=WANTS)
    assert [node.op_type for node in before.graph] == ["Reshape", "RotaryEmbedding", "Reshape"]
    assert_same_outputs(original, before)


def test_parts_of_a_part() -> None:
    """As where queries, keys and values are one tensor, and are cut along with their parts."""
    header = (PART % (2, 2, 4, 4)).replace("[N,3,S,8] x", "[N,3,S,9] x").replace("{8}", "{9}")
    header = header.replace("zero = {0}", "zero = {1}").replace("{4}", "{5}")
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    original = before.clone()
    run_pass(rotary_part, before, target=WANTS)
    assert [node.op_type for node in before.graph] == ["Slice", "RotaryEmbedding"]
    assert_same_outputs(original, before)


def test_parts_that_leave_something_out() -> None:
    header = PART.replace("[N,3,S,8] y", "[N,3,S,6] y") % (2, 2, 4, 6)
    before = parse(f"{header} {PARTS} r = RotaryEmbedding(a, c, s) y = Concat<axis=-1>(r, b) }}")
    assert_refuses(rotary_part, before, "the slices are not the two parts", target=WANTS)


# --- heads -------------------------------------------------------------------------------------

SWAPPED = (
    '<ir_version: 10, opset_import: ["" : 23]> g (float[N,S,4,8] x, float[N,4,S,8] k,'
    " float[N,S,4] c, float[N,S,4] s) => (float[N,4,S,8] y) { t = Transpose<perm=[0,2,1,3]>(x)"
    " r = RotaryEmbedding(t, c, s) %s }"
)


def test_rotary_joins_heads() -> None:
    before = parse(SWAPPED % "y = Attention(r, k, k)")
    original = before.clone()
    run_pass(rotary_joins_heads, before, target=WANTS)
    assert [node.op_type for node in before.graph] == [
        "Reshape",
        "RotaryEmbedding",
        "Reshape",
        "Transpose",
        "Attention",
    ]
    assert_same_outputs(original, before)


def test_heads_stay_apart_where_no_attention_is() -> None:
    before = parse(SWAPPED % "y = Add(r, k)")
    assert_refuses(rotary_joins_heads, before, "no Attention uses", target=WANTS)


# --- without a batch, and with the tokens before it --------------------------------------------


@pytest.mark.parametrize(
    ("x", "table"),
    [("S,4,8", "S,1,4"), ("4,S,8", "S,4"), ("4,S,8", "1,S,4")],
    ids=["heads behind", "heads before", "one row"],
)
def test_three_axes(freeze: Freeze, x: str, table: str) -> None:
    """As in the vision tower of Qwen2-VL."""
    signature = SIGNATURE.replace("N,4,S,8", x).replace("float[N,S,4] xa", f"float[{table}] xa")
    halves = HALVES.replace("last", "second")
    signature = signature.replace("float two", "float two, int64[1] second")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {halves} {TURN}"
    rotated(freeze(f"{signature} {{ {body} }}", opset=23, **NUMBERS, second=2))


def test_neighbours_on_three_axes(freeze: Freeze) -> None:
    signature = PAIRED.replace("N,4,S,8", "S,4,8").replace("float[N,S,4] xa", "float[S,1,4] xa")
    signature = signature.replace("int64[4] whole", "int64[3] whole")
    text = f"{BY_EXPAND} cos = Cos(a) sin = Sin(a) {EVERY_OTHER} {STACK}".replace("last", "second")
    shapes = {**SHAPES, "whole": [0, -1, 8]}
    node = rotated(freeze(f"{signature} {{ {text} }}", opset=23, **NUMBERS, **shapes))
    assert node.attributes["interleaved"].as_int() == 1


def test_tokens_before_batches(freeze: Freeze) -> None:
    """As in Wav2Vec2-Conformer."""
    signature = SIGNATURE.replace("N,4,S,8", "S,N,4,8").replace("N,S,4] xa", "S,1,1,4] xa")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    node = rotated(freeze(f"{signature} {{ {body} }}", opset=23, **NUMBERS))
    assert node.attributes["num_heads"].as_int() == 4


def test_a_table_that_is_cut_from_a_constant(freeze: Freeze) -> None:
    signature = SIGNATURE.replace("N,4,S,8", "N,4,5,8").replace("two", "two, float[9,8] table")
    angles = np.arange(36, dtype=np.float32).reshape(9, 4)
    body = f"a = Slice(table, zero, five, zero) cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    text = f"{signature.replace('two', 'two, int64[1] five')} {{ {body} }}"
    given = {**NUMBERS, "five": 5, "table": np.concatenate([angles, angles], axis=-1)}
    rotated(freeze(text, opset=23, **given))


@pytest.mark.parametrize(
    ("x", "table", "reason"),
    [
        ("S,H,8", "S,1,4", "the number of heads is unknown"),
        ("4,S,8", "2,4,S,4", "the angles have more axes than what is rotated"),
        ("4,S,8", "4,S,4", "the angles are not alike for all heads"),
    ],
)
def test_what_is_refused_on_three_axes(freeze: Freeze, x: str, table: str, reason: str) -> None:
    signature = SIGNATURE.replace("float[N,4,S,8] x", f"float[{x}] x")
    signature = signature.replace("float[N,S,4] xa", f"float[{table}] xa")
    signature = signature.replace("float two", "float two, int64[1] second")
    halves = HALVES.replace("last", "second")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {halves} {TURN}"
    before = freeze(f"{signature} {{ {body} }}", opset=23, **NUMBERS, second=2)
    assert_refuses(rotary, before, reason, target=WANTS)
