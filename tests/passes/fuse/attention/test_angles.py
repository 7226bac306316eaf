# SPDX-License-Identifier: Apache-2.0
"""Tables of angles, laid out in other ways.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.passes.fuse.attention.rotate_half import rotary
from burnish.testing import assert_refuses
from tests.passes.fuse.attention.conftest import (
    ANGLES,
    HALVES,
    ROTARY,
    ROTARY_NUMBERS,
    TABLES,
    TURN,
    WANTS,
    Freeze,
    rotated,
)


@pytest.mark.parametrize(
    ("tables", "shape"),
    [("cos = Cos(a) sin = Sin(a)", "S,4"), ("cos = Cos(a) sin = Sin(a)", "1,S,4")],
)
def test_tables_of_fewer_axes(freeze: Freeze, tables: str, shape: str) -> None:
    signature = ROTARY.replace("float[N,S,4] xa", f"float[{shape}] xa")
    before = freeze(
        signature + f"{{ {ANGLES} {tables} {HALVES} {TURN} }}", opset=23, **ROTARY_NUMBERS
    )
    rotated(before)


def test_angles_that_differ_by_head_are_refused(freeze: Freeze) -> None:
    signature = ROTARY.replace("float[N,S,4] xa", "float[N,4,S,4] xa")
    body = f"{ANGLES} cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    before = freeze(f"{signature} {{ {body} }}", opset=23, **ROTARY_NUMBERS)
    assert_refuses(rotary, before, "the angles are not alike for all heads", target=WANTS)


def test_one_angle_for_all_tokens_is_refused(freeze: Freeze) -> None:
    """It is broadcast over the tokens, which the operator does not do."""
    signature = ROTARY.replace("float[N,S,4] xa", "float[N,1,4] xa")
    before = freeze(
        f"{signature} {{ {ANGLES} {TABLES} {HALVES} {TURN} }}", opset=23, **ROTARY_NUMBERS
    )
    assert_refuses(rotary, before, "the angles are not alike for all heads", target=WANTS)


def test_a_table_that_is_cut_from_a_constant(freeze: Freeze) -> None:
    signature = ROTARY.replace("N,4,S,8", "N,4,5,8").replace("two", "two, float[9,8] table")
    angles = np.arange(36, dtype=np.float32).reshape(9, 4)
    body = f"a = Slice(table, zero, five, zero) cos = Cos(a) sin = Sin(a) {HALVES} {TURN}"
    text = f"{signature.replace('two', 'two, int64[1] five')} {{ {body} }}"
    given = {**ROTARY_NUMBERS, "five": 5, "table": np.concatenate([angles, angles], axis=-1)}
    rotated(freeze(text, opset=23, **given))
