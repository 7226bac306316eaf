# SPDX-License-Identifier: Apache-2.0
"""Radix selection finds exactly what sorting would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from burnish.passes.prune.select import kth_smallest


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint32, 32), (np.uint64, 64)])
@given(data=st.data())
def test_finds_what_sorting_finds(dtype: type, bits: int, data: st.DataObject) -> None:
    # Few different values in many places, so that there are ties in every digit.
    values = st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**31, 2 ** (bits - 1), 2**bits - 1])
    elements = values | st.integers(0, 2**bits - 1)
    keys = data.draw(hnp.arrays(dtype, st.integers(1, 60), elements=elements))
    k = data.draw(st.integers(1, keys.size))
    cuts = sorted(data.draw(st.lists(st.integers(0, keys.size), max_size=3)))
    found = kth_smallest(lambda: np.split(keys, cuts), k, bits)
    expected = np.sort(keys)[k - 1]
    assert found.key == expected
    assert found.below == np.count_nonzero(keys < expected)
    assert found.equal == np.count_nonzero(keys == expected)


def test_reads_the_keys_once_a_digit() -> None:
    reads = []

    def keys() -> list[np.ndarray]:
        reads.append(1)
        return [np.arange(10, dtype=np.uint32)]

    assert kth_smallest(keys, 4, 32).key == 3
    assert len(reads) == 2
