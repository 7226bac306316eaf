# SPDX-License-Identifier: Apache-2.0
"""Products of queries and keys, transposed or not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.testing import parse
from tests.passes.fuse.attention.conftest import HEADER, fused


def test_keys_that_come_transposed_on_three_axes() -> None:
    text = "g (float[B,2,8] q, float[B,8,3] k, float[B,3,6] v) => (float[B,2,6] y)"
    model = parse(f"{HEADER}{text} {{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }}")
    assert "Attention" in fused(model)
