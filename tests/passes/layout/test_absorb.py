# SPDX-License-Identifier: Apache-2.0
"""Products take in the Transpose beside them, but none that moves nothing.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`.
"""

from __future__ import annotations

import pytest

from burnish.passes.layout.absorb import transpose_into_gemm, transpose_into_matmul
from burnish.passes.rule import Rule
from burnish.testing import assert_becomes, parse

_CASES = {
    "Gemm, left": (transpose_into_gemm, "t = Transpose{}(a) y = Gemm(t, b)"),
    "Gemm, right": (transpose_into_gemm, "t = Transpose{}(b) y = Gemm<transB=1>(a, t, c)"),
    "MatMul, left": (transpose_into_matmul, "t = Transpose{}(a) y = MatMul(t, b)"),
    "MatMul, right": (transpose_into_matmul, "t = Transpose{}(b) y = MatMul(a, t)"),
}


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("perm", ["", "<perm=[1,0]>", "<perm=[0,1]>"])
def test_a_product_takes_in_what_swaps(case: str, perm: str) -> None:
    rule: Rule = _CASES[case][0]
    body = _CASES[case][1].format(perm)
    before = parse(f"g (float[3,3] a, float[3,3] b, float[3] c) => (float[3,3] y) {{ {body} }}")
    kept = ["Transpose", "MatMul" if "MatMul" in body else "Gemm"]
    assert_becomes(rule, before, kept if perm == "<perm=[0,1]>" else ["Gemm"])
