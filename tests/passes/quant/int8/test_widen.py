# SPDX-License-Identifier: Apache-2.0
"""Channels of depthwise convolutions fill blocks, or the pass says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.quant.int8.widen import NarrowDepthwise, WidenDepthwise
from burnish.passes.quant.weighted import KEEP
from burnish.testing import (
    assert_same_outputs,
    refusals,
    rewrites,
    run_pass,
    structural_difference,
)

Build = Any
Samples = Any

_BLOCK = """g (float[N,4,H,W] x) => (float[N,6,H2,W2] y) {
    a = Conv(x, w1, b1)
    h = HardSwish(a)
    d = Conv<group=24, pads=[1,1,1,1], strides=[2,2]>(h, k, kb)
    MIDDLE
    y = Conv(z, w2, b2)
}"""
_WEIGHTS = {
    "w1": (24, 4, 1, 1),
    "b1": (24,),
    "k": (24, 1, 3, 3),
    "kb": (24,),
    "w2": (6, 24, 1, 1),
    "b2": (6,),
}
_POSITIVE = np.linspace(0.5, 2, 24, dtype=np.float32)
_GATE = """m = GlobalAveragePool(d)
    s = Conv(m, g1, c1)
    r = Relu(s)
    e = Conv(r, g2, c2)
    q = HardSigmoid(e)
    z = Mul(d, q)"""


def _depthwise(model: ir.Model) -> list[int]:
    groups = [node.attributes.get_int("group", 1) for node in model.graph]
    return [group for group in groups if group > 1]


@pytest.mark.parametrize(
    ("middle", "weights"),
    [
        ("z = Relu(d)", {}),
        (
            "z = BatchNormalization(d, s, t, m, v)",
            dict.fromkeys("stmv", np.linspace(0.5, 2, 24, dtype=np.float32)),
        ),
        (_GATE, {"g1": (8, 24, 1, 1), "c1": (8,), "g2": (24, 8, 1, 1), "c2": (24,)}),
        ("z0 = Add(d, t)  z = Mul(z0, s)", {"t": (1, 24, 1, 1), "s": (24, 1, 1)}),
        (
            "p = Conv(d, u)  q = Conv<group=24>(p, l)  z = Add(d, q)",
            {"u": (24, 24, 1, 1), "l": (24, 1, 1, 1)},
        ),
    ],
)
def test_fills_and_keeps_the_numbers(
    build: Build, samples: Samples, middle: str, weights: dict[str, Any]
) -> None:
    before = build(_BLOCK.replace("MIDDLE", middle), **_WEIGHTS, **weights)
    after = before.clone()
    ctx = run_pass(WidenDepthwise(), after, calibration=samples(after, 1, 4, 9, 9))
    assert rewrites(ctx)["fill-depthwise"] >= 1
    assert set(_depthwise(after)) == {32}
    assert_same_outputs(before, after)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[N,4,H,W] x) => (float[N,24,H,W] y)"
            " { h = Conv(x, w1)  y = Conv<group=24>(h, l) }",
            "output of the model",
        ),
        (
            "g (float[N,4,H,W] x) => (float[N,4,H,W] y) { d = Conv<group=4>(x, q)  y = Relu(d) }",
            "too many channels more",
        ),
        (
            "g (float[N,24,H,W] x) => (float[N,6,H,W] y)"
            " { d = Conv<group=24>(x, l)  y = Conv(d, w2) }",
            "input of the model",
        ),
        (
            "g (float[N,4,H,W] x) => (float[N,6,H,W] y)"
            " { h = Conv(x, w1)  d = Conv<group=24>(h, l)  t = DepthToSpace<blocksize=2>(d)"
            "  y = Conv(t, o) }",
            "other channels depend on its own",
        ),
    ],
)
def test_refuses(build: Build, samples: Samples, text: str, reason: str) -> None:
    shapes = {
        "w1": (24, 4, 1, 1),
        "l": (24, 1, 1, 1),
        "q": (4, 1, 1, 1),
        "w2": (6, 24, 1, 1),
        "o": (6, 6, 1, 1),
    }
    model = build(text, **{name: shape for name, shape in shapes.items() if f" {name})" in text})
    sizes = (1, 24 if "float[N,24,H,W] x" in text else 4, 9, 9)
    ctx = run_pass(WidenDepthwise(), model, calibration=samples(model, *sizes))
    assert rewrites(ctx) == {}
    (reasons,) = refusals(ctx).values()
    assert any(reason in given for given in reasons)


def test_does_nothing_without_calibration(build: Build) -> None:
    model = build(_BLOCK.replace("MIDDLE", "z = Relu(d)"), **_WEIGHTS)
    assert rewrites(run_pass(WidenDepthwise(), model)) == {}


def test_takes_back_what_is_of_no_use(build: Build, samples: Samples) -> None:
    model = build(_BLOCK.replace("MIDDLE", "z = Relu(d)"), **_WEIGHTS)
    before = model.clone()
    run_pass(WidenDepthwise(), model, calibration=samples(model, 1, 4, 9, 9))
    wide = model.clone()
    assert rewrites(run_pass(NarrowDepthwise(), wide)) == {}
    (depthwise,) = (node for node in model.graph if node.attributes.get_int("group", 1) == 32)
    depthwise.meta[KEEP] = "slower"
    assert rewrites(run_pass(NarrowDepthwise(), model)) == {"unfill-depthwise": 1}
    assert structural_difference(before, model) is None
    assert_same_outputs(before, model)
