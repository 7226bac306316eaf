# SPDX-License-Identifier: Apache-2.0
"""InstanceNormalization spelled out, as Keras and older exporters of torch do.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.norm.instance_norm import instance_norm
from burnish.passes.fuse.norm.norm import FuseNorm
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    parse,
)

Freeze = Callable[..., ir.Model]

SIGNATURE = (
    "g (float[N,3,5,4] x, int64[2] axes, float eps, float two, float[3,1,1] w, float[1,3,1,1] b)"
    " => (float[N,3,5,4] y)"
)
MOMENTS = "m = ReduceMean(x, axes) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, axes)"
SPELLINGS = {
    "divided": "s = Sqrt(ve) z = Div(d, s) p = Mul(z, w) y = Add(p, b)",
    "scaled": "s = Sqrt(ve) i = Reciprocal(s) k = Mul(i, w) p = Mul(d, k) y = Add(p, b)",
    "folded": (
        "s = Sqrt(ve) i = Reciprocal(s) k = Mul(i, w) p = Mul(x, k) n = Neg(m) t = Mul(n, k)"
        " u = Add(t, b) y = Add(p, u)"
    ),
}
NUMBERS = {"axes": [2, 3], "eps": 1e-3, "two": 2}


def test_fires() -> None:
    before = parse(
        "g (float[N,2,5,4] x) => (float[N,2,5,4] y)"
        "<int64[2] axes = {-2, -1}, float eps = {0.001}, float two = {2}>"
        f"{{ {MOMENTS} ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }}"
    )
    after = parse(
        "g (float[N,2,5,4] x) => (float[N,2,5,4] y) <float[2] w = {1, 1}, float[2] b = {0, 0}>"
        "{ y = InstanceNormalization<epsilon=0.001>(x, w, b) }"
    )
    assert_rewrites(instance_norm, before, after)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(freeze: Freeze, spelling: str) -> None:
    model = freeze(SIGNATURE + f"{{ {MOMENTS} ve = Add(v, eps) {SPELLINGS[spelling]} }}", **NUMBERS)
    assert_becomes(FuseNorm(), model, ["InstanceNormalization"])


@pytest.mark.parametrize(
    ("signature", "axes", "reason"),
    [
        (SIGNATURE, [1, 2], "the mean is not over all axes but samples and channels"),
        (
            SIGNATURE.replace("[N,3,5,4] x", "[N,K,5,4] x"),
            [2, 3],
            "the number of channels is unknown",
        ),
        (
            SIGNATURE.replace("float", "double"),
            [2, 3],
            "the normalization takes its epsilon and its sums as float32",
        ),
    ],
)
def test_refuses(freeze: Freeze, signature: str, axes: list[int], reason: str) -> None:
    body = f"{{ {MOMENTS} ve = Add(v, eps) {SPELLINGS['divided']} }}"
    assert_refuses(instance_norm, freeze(signature + body, **(NUMBERS | {"axes": axes})), reason)
