# SPDX-License-Identifier: Apache-2.0
"""Attention in the spellings of exporters.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from burnish.passes.fuse.attention.scaled_dot_product import attention
from burnish.testing import assert_refuses, assert_rewrites, parse
from tests.passes.fuse.attention.conftest import (
    HEADER,
    NUMBERS,
    PLAIN,
    PRODUCT,
    SIGNATURE,
    WANTS,
    WANTS_NONE,
    Freeze,
)


def test_attention() -> None:
    signature = HEADER + "g (float[N,4,2,8] q, float[N,4,3,8] k, float[N,4,3,8] v)"
    before = parse(
        signature + " => (float[N,4,2,8] y) <float c = {0.25}>"
        "{ t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) z = Mul(s, c) p = Softmax(z)"
        " y = MatMul(p, v) }"
    )
    after = parse(
        signature + " => (float[N,4,2,8] y) { y = Attention<scale=0.25>(q, k, v) }",
    )
    assert_rewrites(attention, before, after, target=WANTS)


def test_a_target_that_does_not_want_it(freeze: Freeze) -> None:
    model = freeze(SIGNATURE + f"{{ {PRODUCT} z = Add(a, xb) {PLAIN} }}", opset=23, **NUMBERS)
    reason = "target cpu runs it no faster fused (0.93x)"
    assert_refuses(attention, model, reason, target=WANTS_NONE)


def test_bfloat16_is_left_where_no_kernel_is() -> None:
    signature = "g (bfloat16[N,4,2,8] q, bfloat16[N,4,3,8] k, bfloat16[N,4,3,8] v)"
    model = parse(
        f"{HEADER}{signature} => (bfloat16[N,4,2,8] y) {{ t = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, t) f = Cast<to=1>(s) p = Softmax(f) h = Cast<to=16>(p) y = MatMul(h, v) }"
    )
    reason = "target cpu does not run Attention of bfloat16 at opset 23"
    assert_refuses(attention, model, reason, target=WANTS)
