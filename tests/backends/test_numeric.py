# SPDX-License-Identifier: Apache-2.0
"""Differences that are known by construction."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from burnish.backends.numeric import TOLERANCES, OutputDifference, compare_outputs, outside


def one(expected: Any, actual: Any, **tolerance: float) -> OutputDifference:
    (output,) = compare_outputs({"y": expected}, {"y": actual}, **tolerance).outputs
    return output


F32 = np.float32


def test_measures_of_a_known_difference() -> None:
    got = one(np.array([3, 4, 0], F32), np.array([3, 4.5, 0.5], F32))
    assert got.max_abs == 0.5
    assert got.max_rel == 0.125  # where zero is expected, no ratio says anything
    assert got.rms_rel == pytest.approx(math.sqrt(0.5) / 5)
    assert got.cosine == pytest.approx(27 / (5 * math.sqrt(9 + 4.5**2 + 0.25)))
    assert got.outside == pytest.approx(2 / 3)
    assert not got.ok


def test_equal_is_exactly_equal() -> None:
    x = np.linspace(-1, 1, 7, dtype=F32)
    assert one(x, x.copy()) == OutputDifference("y", "float32", cosine=one(x, x).cosine)
    assert one(x, x).cosine == pytest.approx(1, abs=1e-15)
    assert one(x, x).ok


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        (np.float64, 2**-53),
        (np.float32, 2**-24),
        (np.float16, 2**-11),
        (ml_dtypes.bfloat16, 2**-8),
    ],
)
def test_each_type_allows_for_its_rounding_and_no_more(dtype: Any, unit: float) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    nudged = (x.astype(np.float64) * (1 + 2 * unit)).astype(dtype)
    assert one(x, nudged).ok
    tolerance = TOLERANCES[str(x.dtype)]
    off = x.astype(np.float64) + 4 * (tolerance.atol + tolerance.rtol * np.abs(x.astype(float)))
    assert not one(x, off.astype(dtype)).ok


def test_the_absolute_part_follows_the_scale_of_the_output() -> None:
    x = np.array([1, -1, 0], np.float64)
    error = np.array([0, 0, 1e-6])
    for scale in (1e-20, 1.0, 1e20):
        assert one((x * scale).astype(F32), ((x + error) * scale).astype(F32)).ok
        assert not one((x * scale).astype(F32), ((x + 1000 * error) * scale).astype(F32)).ok


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, bool, ml_dtypes.int4])
def test_whole_numbers_must_agree(dtype: Any) -> None:
    x = np.array([0, 1, 1, 0]).astype(dtype)
    y = np.array([0, 1, 1, 1]).astype(dtype)
    assert one(x, x.copy()).ok
    assert one(x, y).outside == 0.25


def test_large_whole_numbers_are_told_apart() -> None:
    assert not one(np.array([2**62]), np.array([2**62 + 1])).ok
    assert one(np.array([2**63], np.uint64), np.array([2**63], np.uint64)).ok


def test_strings_must_agree() -> None:
    x = np.array(["a", "b"], dtype=object)
    assert one(x, x.copy()).ok
    assert one(x, np.array(["a", "c"], dtype=object)).outside == 0.5


def test_nan_and_infinity_must_stay_where_they_are() -> None:
    x = np.array([np.nan, np.inf, 1], F32)
    assert one(x, x.copy()).ok
    assert "NaN" in str(one(x, np.array([1, np.inf, np.nan], F32)).problem)
    assert "infinite" in str(one(x, np.array([np.nan, -np.inf, 1], F32)).problem)
    assert "1 NaN" in str(one(np.ones(2, F32), np.array([1, np.nan], F32)).problem)
    assert "1 infinite" in str(one(np.ones(2, F32), np.array([1, np.inf], F32)).problem)


@pytest.mark.parametrize(
    ("actual", "problem"),
    [
        ({}, "it is missing"),
        ({"y": np.ones(3, F32)}, r"shape [3], expected [2]"),
        ({"y": np.ones(2)}, "type float64, expected float32"),
    ],
)
def test_what_cannot_be_compared_is_a_problem(actual: dict[str, Any], problem: str) -> None:
    difference = compare_outputs({"y": np.ones(2, F32)}, actual)
    assert not difference.ok
    assert difference.outputs[0].problem == problem
    assert str(difference) == f"output 'y': {problem}"


def test_empty_and_zero_outputs() -> None:
    assert one(np.zeros((0, 3), F32), np.zeros((0, 3), F32)).ok
    assert one(np.zeros(3, F32), np.zeros(3, F32)).cosine == 1
    off = one(np.zeros(3, F32), np.ones(3, F32))
    assert (off.rms_rel, off.cosine, off.ok) == (math.inf, 0, False)


def test_the_norms_do_not_overflow() -> None:
    x = np.full(4, 3e38, F32)
    assert one(x, x).cosine == pytest.approx(1)
    assert one(np.full(4, 6e4, np.float16), np.full(4, 6e4, np.float16)).ok


def test_tolerances_can_be_given() -> None:
    x, y = np.ones(4, F32), np.full(4, 1.05, F32)
    assert not one(x, y).ok
    assert one(x, y, rtol=0.06).ok
    assert one(x, y, atol=0.06).ok
    assert not one(x, x * F32(1 + 1e-6), rtol=0, atol=0).ok


def test_the_worst_output_speaks_for_all() -> None:
    expected = {name: np.ones(4, F32) for name in "abc"}
    actual = {"a": np.ones(4, F32), "b": np.full(4, 2, F32), "c": np.full(4, 1.5, F32)}
    difference = compare_outputs(expected, actual)
    assert difference.worst is not None
    assert difference.worst.name == "b"
    assert str(difference).startswith("output 'b' (float32): max abs 1, relative RMS 1")
    actual["c"] = np.full(4, np.nan, F32)
    worst = compare_outputs(expected, actual).worst
    assert worst is not None
    assert worst.name == "c"
    assert compare_outputs({}, {}).ok


def test_which_elements_are_outside() -> None:
    expected = np.array([[1, -2, np.inf], [np.nan, 3, 0]], F32)
    actual = np.array([[1, -2.1, np.inf], [np.nan, 3, 0.001]], F32)
    mask = outside(expected, actual)
    np.testing.assert_array_equal(mask, [[False, True, False], [False, False, True]])
    assert np.mean(mask) * 6 == pytest.approx(one(expected, actual).outside * 4)  # of finite ones


def test_strings_count_one_by_one() -> None:
    got = one(np.array(["a", "b", "c", "d"], object), np.array(["a", "b", "c", "e"], object))
    assert (got.outside, got.rms_rel, got.ok) == (0.25, 0.5, False)
