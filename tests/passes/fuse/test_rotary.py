# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in the spelling of transformers.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.rotary import rotary
from burnish.testing import assert_refuses, assert_same_outputs, run_pass

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
