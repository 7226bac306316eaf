# SPDX-License-Identifier: Apache-2.0
"""`equalize`: the same outputs, from weights whose channels are alike."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.quant.accuracy.equalize import equalizing
from burnish.passes.reconstruct.layer import layers_of
from burnish.testing import assert_same_outputs, refusals, rewrites, run_pass

IMAGE = "g (float[N,8,9,9] x) => (float[N,C,H,W] y) "
CHAINS = {
    "Relu": ("t = Conv(x, v, b)  r = Relu(t)  y = Conv(r, w)", 1),
    "nothing": ("t = Conv(x, v, b)  y = Conv(t, w)", 1),
    "LeakyRelu": ("t = Conv(x, v)  r = LeakyRelu<alpha = 0.3>(t)  y = Conv(r, w)", 1),
    "PRelu": ("t = Conv(x, v, b)  r = PRelu(t, p)  y = Conv(r, w)", 1),
    "depthwise": (
        "t = Conv(x, v, b)  r = Relu(t)  d = Conv<group = 12>(r, k, b)  s = Relu(d) "
        " y = Conv(s, w)",
        2,
    ),
    "groups": ("t = Conv(x, v, b)  r = Relu(t)  y = Conv<group = 3>(r, g3)", 1),
}


def make(build, body: str, head: str = IMAGE) -> ir.Model:  # type: ignore[no-untyped-def]
    spread = (10.0 ** np.linspace(-2, 2, 12)).astype(np.float32)
    rng = np.random.default_rng(0)
    v = (rng.normal(0, 0.2, (12, 8, 3, 3)) * spread[:, None, None, None]).astype(np.float32)
    model = build(
        f"{head} {{ {body} }}",
        v=v,
        b=(12,),
        p=(12, 1, 1),
        w=(5, 12, 3, 3),
        k=(12, 1, 3, 3),
        g3=(6, 4, 3, 3),
        m=v[:, :, 0, 0].T.copy(),
        n=(12, 4),
    )
    assert isinstance(model, ir.Model)
    return model


@pytest.mark.parametrize("kind", CHAINS)
def test_outputs_stay_and_ranges_come_together(build, kind: str) -> None:  # type: ignore[no-untyped-def]
    body, links = CHAINS[kind]
    model = make(build, body)
    before = model.clone()
    ctx = run_pass("equalize", model)
    assert rewrites(ctx) == {"equalize": links}
    assert_same_outputs(before, model)

    def spread(of: ir.Model) -> float:
        first = np.abs(layers_of(of)[0].weights.array).reshape(12, -1).max(axis=1)
        return float(first.max() / first.min())

    assert spread(model) < 0.05 * spread(before)
    again = run_pass("equalize", model)
    assert rewrites(again) == {}


def test_products_are_linked_too(build) -> None:  # type: ignore[no-untyped-def]
    head = "g (float[N,8] x) => (float[N,C] y) "
    model = make(build, "t = Gemm(x, m, b)  r = Relu(t)  y = MatMul(r, n)", head)
    before = model.clone()
    assert rewrites(run_pass("equalize", model)) == {"equalize": 1}
    assert_same_outputs(before, model)


REASONS = {
    "Clip behind it does not pass a factor on": "t = Conv(x, v, b)  r = Clip(t)  y = Conv(r, w)",
    "what it gives goes to several places": "t = Conv(x, v, b)  r = Relu(t)  s = Conv(r, w) "
    " u = Conv(r, w2)  y = Add(s, u)",
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_does_not_fit_is_refused(build, reason: str) -> None:  # type: ignore[no-untyped-def]
    model = make(build, REASONS[reason].replace("w2", "w"))
    ctx = run_pass("equalize", model)
    assert rewrites(ctx) == {}
    assert reason in refusals(ctx)["equalize"]


def test_factors_are_those_of_the_paper_up_to_their_size() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (5, 7)), rng.normal(0, 1, (5, 3))
    factor = equalizing(first, second)
    reach = np.abs(first).max(axis=1) / factor
    np.testing.assert_allclose(
        reach / reach[0],
        (np.abs(second).max(axis=1) * factor) / (np.abs(second).max(axis=1)[0] * factor[0]),
        rtol=1e-12,
    )
    first[2] = 0
    assert equalizing(first, second)[2] == 1
