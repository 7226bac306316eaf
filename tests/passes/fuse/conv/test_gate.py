# SPDX-License-Identifier: Apache-2.0
"""A gated residual becomes one product, or says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.conv.gate import gated_residual, shifted_hard_sigmoid
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

_OUT = "(float[N,8,H,W] y)"
_BODY = "{ g = Mul(x, s)  y = Add(x, g) }"


@pytest.mark.parametrize("gate", ["float[N,8,1,1] s", "float[8,1,1] s", "float[N,1,H,W] s"])
@pytest.mark.parametrize("body", [_BODY, "{ g = Mul(s, x)  y = Add(g, x) }"])
def test_fires_and_keeps_the_numbers(gate: str, body: str) -> None:
    signature = f"g (float[N,8,H,W] x, {gate}) => {_OUT}"
    after = f"{signature} <float one = {{1}}> {{ p = Add(s, one)  y = Mul(x, p) }}"
    assert_rewrites(gated_residual, parse(signature + body), parse(after))


def test_keeps_the_type() -> None:
    before = "g (float16[2,8,3] x, float16[8,1] s) => (float16[2,8,3] y)"
    after = f"{before} <float16 one = {{15360}}> {{ p = Add(s, one)  y = Mul(x, p) }}"
    assert_rewrites(gated_residual, parse(before + _BODY), parse(after))


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("float[N,8,H,W] s", "as large as what it gates"),
        ("float[M,8,1,1] s", "might broadcast"),
        ("float[1,1,8,1,1] s", "more axes"),
    ],
)
def test_refuses(gate: str, reason: str) -> None:
    signature = f"g (float[N,8,H,W] x, {gate}) => (float[A,B,C,D] y)"
    assert_refuses(gated_residual, parse(signature + _BODY), reason)


def test_refuses_integers() -> None:
    model = parse(f"g (int64[2,8,3] x, int64[8,1] s) => (int64[2,8,3] y) {_BODY}")
    assert_refuses(gated_residual, model, "integers")


def test_the_product_alone_is_kept_where_others_use_it() -> None:
    text = "g (float[2,8,3] x, float[8,1] s) => (float[2,8,3] y, float[2,8,3] g)"
    before = parse(text + _BODY)
    original = before.clone()
    assert_rewrites(gated_residual, before, original)


_CONV = "h = Conv(x, w, b)"
_GEMM = "f = Flatten(x)  h = Gemm<transB=1>(f, v, b)"


def _gate(freeze: Callable[..., ir.Model], before: str, gate: str, one: str) -> ir.Model:
    axes = "2,4" if before == _GEMM else "2,4,1,1"
    return freeze(
        "g (float[2,6,1,1] x, float[4,6,1,1] w, float[4,6] v, float[4] b, "
        f"float{one} c) => (float[{axes}] y) {{ {before}  s = {gate}  y = Add(s, c) }}",
        c=np.ones(()),
    )


@pytest.mark.parametrize("before", [_CONV, "h = Conv(x, w)", _GEMM])
@pytest.mark.parametrize("gate", ["HardSigmoid(h)", "HardSigmoid<alpha=0.3,beta=0.1>(h)"])
def test_the_convolution_takes_in_the_line_of_a_shifted_gate(
    freeze: Callable[..., ir.Model], before: str, gate: str
) -> None:
    model = _gate(freeze, before, gate, "")
    after = model.clone()
    run_pass(shifted_hard_sigmoid, after)
    assert [node.op_type for node in after.graph][-1] == "Clip"
    assert not {"HardSigmoid", "Add"} & {node.op_type for node in after.graph}
    assert_same_outputs(model, after)


def test_refuses_a_shift_that_has_more_axes(freeze: Callable[..., ir.Model]) -> None:
    model = _gate(freeze, _GEMM, "HardSigmoid(h)", "[1,1,1]")
    assert_refuses(shifted_hard_sigmoid, model, "more axes")


def test_refuses_a_convolution_with_weights_that_come_in() -> None:
    text = "g (float[2,6,1,1] x, float[4,6,1,1] w) => (float[2,4,1,1] y) <float c = {1}>"
    body = "{ h = Conv(x, w)  s = HardSigmoid(h)  y = Add(s, c) }"
    assert_refuses(shifted_hard_sigmoid, parse(text + body), "not constant")
