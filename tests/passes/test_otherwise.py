# SPDX-License-Identifier: Apache-2.0
"""A copy that rounds otherwise is the same model up to its last places, and is not the same."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.onnxruntime import session
from burnish.passes.otherwise import rounded_otherwise
from burnish.testing import parse


def test_only_the_last_places_of_what_rounds_move() -> None:
    model = parse(
        "g (float[2,64] x, bool[2,64] m) => (float[2,64] y, float[2,64] exact) <float c = {0.5}>"
        "{ t = Tanh(x)  y = Mul(t, c)  f = Cast<to=1>(m)  exact = Add(f, c) }"
    )
    rng = np.random.default_rng(0)
    feeds = {
        "x": np.repeat(rng.standard_normal((1, 64)).astype(np.float32), 2, axis=0),
        "m": rng.random((2, 64)) < 0.5,
    }
    copy = rounded_otherwise(model, 0)
    before = session(model).run(feeds)
    one, same, other = (
        session(each).run(feeds) for each in (copy, copy, rounded_otherwise(model, 1))
    )
    assert model.graph.num_nodes() == 4
    assert not np.array_equal(before["y"], one["y"])
    np.testing.assert_allclose(one["y"], before["y"], rtol=1e-6)
    np.testing.assert_array_equal(one["exact"], before["exact"])
    np.testing.assert_array_equal(one["y"], same["y"])
    assert not np.array_equal(one["y"], other["y"])
    np.testing.assert_array_equal(one["y"][0], one["y"][1])  # like numbers round alike


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("opset", [8, 9, 11, 13, 21])
def test_infinities_stay(opset: int, kind: str) -> None:
    model = parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]>'
        f" g ({kind}[3] x) => ({kind}[3] y, {kind}[3] z) <{kind} c = {{2}}>"
        "{ l = Log(x)  y = Mul(l, c)  e = Exp(x)  z = Mul(e, c) }"
    )
    feeds = {"x": np.array([0, 1, 1000], {"float": np.float32, "double": np.float64}[kind])}
    before = session(model).run(feeds)
    after = session(rounded_otherwise(model, 0)).run(feeds)
    assert np.isinf(before["y"]).any()
    assert np.isinf(before["z"]).any()
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-6)
