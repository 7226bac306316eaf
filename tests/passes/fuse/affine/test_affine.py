# SPDX-License-Identifier: Apache-2.0
"""The rules about affine functions, together.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

from burnish.passes.fuse.affine.affine import FuseAffine
from burnish.testing import assert_becomes
from tests.passes.fuse.affine.conftest import BATCH_NORM, Freeze


def test_rules_meet_in_the_middle(freeze: Freeze) -> None:
    """A chain on both sides of two convolutions ends up as the two convolutions."""
    model = freeze(
        f"g (float[1,4,9,9] x, float[6,4,3,3] w, float[6,6,3,3] w1, float a, float c, {BATCH_NORM})"
        " => (float[1,6,7,7] y)"
        "{ p = Mul(x, a) q = Sub(c, p) r = Conv(q, w) s = BatchNormalization(r, g, b, m, v)"
        " t = Mul(s, a) u = Conv<pads=[1,1,1,1]>(t, w1) k = Add(u, c) y = Div(k, a) }"
    )
    assert_becomes(FuseAffine(), model, ["Conv", "Conv"])
