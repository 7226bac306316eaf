# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding spelled as products of complex numbers.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir
import pytest

from burnish.passes.fuse.attention.rotary_pairs import rotary_pairs
from burnish.testing import assert_refuses, assert_same_outputs, run_pass
from tests.passes.fuse.attention.conftest import TURNS_SLOWLY, WANTS, Freeze

SIGNATURE = (
    "g (float[N,4,S,8] x, float[N,1,S,4] xc, float[N,1,S,4] xs, float[N,4,S,6] x2, int64[1] zero,"
    " int64[1] one, int64[1] half, int64[1] pair, int64[1] end, int64[1] last, int64[1] back,"
    " int64[4] whole, int64[3] joined, int64[5] apart, int64 even, int64 odd)"
    " => (float[%s] y)"
)
NUMBERS: dict[str, Any] = {
    "zero": 0,
    "one": 1,
    "half": 4,
    "pair": 2,
    "end": 2**63 - 1,
    "last": 3,
    "back": -1,
}
NUMBERS |= {"whole": [0, 0, -1, 8], "joined": [0, 0, -1], "apart": [0, 0, 0, 4, 2]}
NUMBERS |= {"even": 0, "odd": 1}
HALVES = "a = Slice(x, zero, half, last) b = Slice(x, half, end, last)"
SPLIT = "a, b = Split<axis=3, num_outputs=2>(x)"
IN_TURNS = "a = Slice(x, zero, end, last, pair) b = Slice(x, one, end, last, pair)"
GATHERED = "r = Reshape(x, apart) a = Gather<axis=-1>(r, even) b = Gather<axis=4>(r, odd)"
SQUEEZED = (
    "r = Reshape(x, apart) c, d = Split<axis=-1, num_outputs=2>(r)"
    " a = Squeeze(c, back) b = Squeeze(d, back)"
)
PRODUCT = (
    "ac = Mul(a, xc) bs = Mul(b, xs) p = Sub(ac, bs)"
    " bc = Mul(b, xc) sa = Mul(xs, a) q = Add(bc, sa)"
)
BESIDE = "y = Concat<axis=-1>(p, q)"
STACK = "u = Unsqueeze(p, back) v = Unsqueeze(q, back) w = Concat<axis=-1>(u, v)"
TURNS = f"{STACK} y = Reshape(w, whole)"


def model(freeze: Freeze, *parts: str, y: str = "N,4,S,8") -> ir.Model:
    return freeze(SIGNATURE % y + "{" + " ".join(parts) + "}", opset=23, **NUMBERS)


def rotated(before: ir.Model) -> Counter[str]:
    """Run the rule; check the numbers; return the operators that are left."""
    original = before.clone()
    run_pass(rotary_pairs, before, target=WANTS)
    assert_same_outputs(original, before)
    found = Counter(node.op_type for node in before.graph)
    assert found["RotaryEmbedding"] == 1
    assert not {"Mul", "Sub"} & set(found)
    return found


@pytest.mark.parametrize("parts", [HALVES, SPLIT])
def test_halves(freeze: Freeze, parts: str) -> None:
    assert not {"Slice", "Split"} & set(rotated(model(freeze, parts, PRODUCT, BESIDE)))


@pytest.mark.parametrize("parts", [IN_TURNS, GATHERED, SQUEEZED])
def test_neighbours(freeze: Freeze, parts: str) -> None:
    found = rotated(model(freeze, parts, PRODUCT, TURNS))
    assert not {"Slice", "Split", "Gather"} & set(found)


@pytest.mark.parametrize("parts", [IN_TURNS, GATHERED])
def test_neighbours_that_go_side_by_side(freeze: Freeze, parts: str) -> None:
    """As in DeepSeek."""
    rotated(model(freeze, parts, PRODUCT, BESIDE))


@pytest.mark.parametrize("order", ["x2, p, q", "p, q, x2"])
def test_beside_what_is_not_rotated(freeze: Freeze, order: str) -> None:
    rotated(model(freeze, HALVES, PRODUCT, f"y = Concat<axis=3>({order})", y="N,4,S,14"))


def test_neighbours_that_are_joined_with_all_else(freeze: Freeze) -> None:
    rotated(model(freeze, IN_TURNS, PRODUCT, STACK, "y = Reshape(w, joined)", y="N,4,T"))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((HALVES, PRODUCT, TURNS), "what is put in turns did not come in turns"),
        ((HALVES, PRODUCT, "y = Concat<axis=2>(p, q)"), "not joined along the last axis"),
    ],
    ids=["from halves", "another axis"],
)
def test_other_orders_stay(freeze: Freeze, parts: tuple[str, ...], reason: str) -> None:
    y = "N,4,T,4" if "axis=2" in parts[2] else "N,4,S,8"
    assert_refuses(rotary_pairs, model(freeze, *parts, y=y), reason, target=WANTS)


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    before = model(freeze, HALVES, PRODUCT, BESIDE)
    assert_refuses(rotary_pairs, before, "runs it no faster fused (0.90x)", target=TURNS_SLOWLY)


def test_angles_that_differ_by_head_are_refused(freeze: Freeze) -> None:
    signature = SIGNATURE.replace("N,1,S,4", "N,4,S,4") % "N,4,S,8"
    before = freeze(f"{signature} {{ {HALVES} {PRODUCT} {BESIDE} }}", opset=23, **NUMBERS)
    assert_refuses(rotary_pairs, before, "the angles are not alike for all heads", target=WANTS)


def test_another_sign_is_no_rotation(freeze: Freeze) -> None:
    before = model(freeze, HALVES, PRODUCT.replace("p = Sub", "p = Add"), BESIDE)
    run_pass(rotary_pairs, before, target=WANTS)
    assert "RotaryEmbedding" not in [node.op_type for node in before.graph]
