# SPDX-License-Identifier: Apache-2.0
"""Products of three axes whose first was two.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import pytest

from burnish.passes.fuse.product.batches import product_of_batches
from burnish.testing import assert_refuses, assert_rewrites, parse

SIGNATURE = (
    "g (float[N,4,5,6] a, float[{0},6,3] b, float[{0},3,6] c) => (float[{1}] y)"
    " <int64[3] s = {{-1, 5, 6}}, int64[3] t = {{-1, 6, 3}}, int64[3] u = {{-1, 3, 6}},"
    " int64[4] w = {{{2}}}> "
)
FRONT = "a3 = Reshape(a, s) b3 = Reshape(b, t) "


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (FRONT + "p = MatMul(a3, b3)", "y = MatMul(a, b)"),
        (
            "a3 = Reshape(a, s) c3 = Reshape(c, u) b3 = Transpose<perm=[0,2,1]>(c3)"
            " p = MatMul(a3, b3)",
            "b4 = Transpose<perm=[0,1,3,2]>(c) y = MatMul(a, b4)",
        ),
    ],
)
def test_batches_stay_apart(body: str, after: str) -> None:
    before = parse(
        SIGNATURE.format("N,4", "N,4,5,3", "-1,4,5,3") + f"{{ {body} y = Reshape(p, w) }}"
    )
    expected = SIGNATURE.format("N,4", "N,4,5,3", "-1,4,5,3").split(" <")[0]
    assert_rewrites(product_of_batches, before, parse(f"{expected} {{ {after} }}"))


@pytest.mark.parametrize(
    ("lead", "sizes", "result", "reason"),
    [
        ("4,N", "-1,4,5,3", "N,4,5,3", "the batches are not known to be the same"),
        ("N,4", "-1,2,10,3", "M,2,10,3", "the batches are not known to be the same"),
        ("N,4", "-1,4,3,5", "N,4,3,5", "the result is not known to be split as it was"),
    ],
)
def test_other_batches_are_refused(lead: str, sizes: str, result: str, reason: str) -> None:
    signature = SIGNATURE.format(lead, result, sizes)
    before = parse(signature + f"{{ {FRONT} p = MatMul(a3, b3) y = Reshape(p, w) }}")
    assert_refuses(product_of_batches, before, reason)


def test_what_always_had_three_axes_is_refused() -> None:
    before = parse(
        "g (float[N,5,6] a, float[N,6,3] b) => (float[N,1,5,3] y) <int64[4] w = {-1,1,5,3}>"
        " { p = MatMul(a, b) y = Reshape(p, w) }"
    )
    assert_refuses(product_of_batches, before, "not both are known to be batches")
