# SPDX-License-Identifier: Apache-2.0
"""Keys order as magnitudes do, and a cut zeroes exactly what it says."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.passes.prune import magnitude
from burnish.passes.prune.magnitude import Cut, has_nan, magnitude_keys

DTYPES = [
    (np.float16, 32),
    (ml_dtypes.bfloat16, 32),
    (np.float32, 32),
    (np.float32, 64),
    (np.float64, 64),
]


@pytest.mark.parametrize(("dtype", "bits"), DTYPES)
def test_keys_order_as_magnitudes(dtype: Any, bits: int) -> None:
    describe: Any = ml_dtypes.finfo
    info = describe(dtype)
    numbers = [0.0, -0.0, float(info.smallest_subnormal), float(info.tiny), 0.5, -0.5, 1.0, -3.0]
    array = np.array([*numbers, float(info.max), np.inf, -np.inf]).astype(dtype)
    keys = magnitude_keys(array, bits)
    with np.errstate(invalid="ignore"):
        sizes = np.abs(array.astype(np.float64))
    assert np.array_equal(keys[:, None] < keys[None], sizes[:, None] < sizes[None])
    assert np.array_equal(keys[:, None] == keys[None], sizes[:, None] == sizes[None])


@given(data=st.data())
def test_a_cut_takes_what_is_below_and_the_first_ties(data: st.DataObject) -> None:
    numbers = st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, -0.5, 1.0, np.inf])
    array = data.draw(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=numbers)
    )
    limit = data.draw(st.sampled_from([0.0, 0.25, 0.5, 2.0]))
    ties = data.draw(st.integers(0, 10))
    expected = array.copy()
    expected[np.abs(array) < limit] = 0
    where = np.flatnonzero(np.abs(array) == limit)[:ties]
    expected.reshape(-1)[where] = 0
    cut = Cut(int(magnitude_keys(np.array([limit], np.float32), 32)[0]), ties, 32)
    tensor = ir.tensor(array)
    chunk = magnitude.CHUNK
    try:
        magnitude.CHUNK = 4  # ties that go on in the next chunk
        np.testing.assert_array_equal(cut.array(tensor), expected)
        before, after = cut.zeros(tensor)
        assert before == np.count_nonzero(array == 0)
        assert after == np.count_nonzero(expected == 0)
        assert cut.equal(tensor) == np.count_nonzero(np.abs(array) == limit)
    finally:
        magnitude.CHUNK = chunk


def test_what_is_kept_is_kept_bit_by_bit() -> None:
    array = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    cut = Cut(int(magnitude_keys(np.array([0.5], np.float32), 32)[0]), 0, 32)
    result = cut.array(ir.tensor(array))
    kept = np.abs(array) >= 0.5
    assert np.array_equal(result[kept], array[kept])
    assert not result[~kept].any()


def test_layouts_in_memory_do_not_matter() -> None:
    array = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    cut = Cut(int(magnitude_keys(np.array([0.5], np.float32), 32)[0]), 0, 32)
    for view in (np.asfortranarray(array), np.ascontiguousarray(array.T).T):
        np.testing.assert_array_equal(cut.array(ir.tensor(view)), cut.array(ir.tensor(array)))


def test_the_cut_tensor_is_computed_when_read_and_keeps_its_dtype() -> None:
    source = ir.tensor(np.array([1, -3], ml_dtypes.bfloat16), name="w")
    cut = Cut(int(magnitude_keys(np.array([2], np.float32), 32)[0]), 0, 32)
    tensor = cut.tensor(source)
    assert isinstance(tensor, ir.LazyTensor)
    assert (tensor.dtype, tensor.name) == (ir.DataType.BFLOAT16, "w")
    np.testing.assert_array_equal(tensor.numpy(), np.array([0, -3], ml_dtypes.bfloat16))
    np.testing.assert_array_equal(source.numpy(), np.array([1, -3], ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_sees_nan(dtype: Any) -> None:
    assert has_nan(ir.tensor(np.array([1, np.nan]).astype(dtype)))
    assert not has_nan(ir.tensor(np.array([1, np.inf]).astype(dtype)))
