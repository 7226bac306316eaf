# SPDX-License-Identifier: Apache-2.0
"""Pointwise convolutions of rows become products again, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.product.pointwise.pointwise import Pointwise
from burnish.passes.fuse.product.pointwise.products_to_convs import ALONE
from burnish.passes.fuse.product.rows import ConvsToProducts
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_refuses, assert_same_outputs, rewritten, run_pass

Freeze = Callable[..., ir.Model]

_CPU = Target.parse("cpu")
_EAGER = dataclasses.replace(_CPU, preferences=(Preference(ALONE, True), *_CPU.preferences))
_WEIGHTS = "float[8,12] w, float[12,8] u, float[12] b, float[8] c, float[8,12] g"


def _counts(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, w)",
        "m = MatMul(x, w)  h = Add(m, b)  a = Gelu(h)  n = MatMul(a, u)  y = Add(n, c)",
        "m = MatMul(x, w)  h = MatMul(x, g)  s = Sigmoid(m)  t = Mul(m, s)  a = Mul(t, h)"
        "  y = MatMul(a, u)",
    ],
)
@pytest.mark.parametrize("rows", ["B,S", "2,3,5"])
def test_there_and_back(freeze: Freeze, body: str, rows: str) -> None:
    before = freeze(
        f"g (float[{rows},8] x, {_WEIGHTS}) => (float[{rows},N] y) {{ {body} }}", opset=21
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert _counts(after)["MatMul"] == 0
    run_pass(ConvsToProducts(), after)
    assert _counts(after) == _counts(before)


def test_products_of_one_input_come_back_one_by_one(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, {_WEIGHTS}) => (float[B,S,12] y, float[B,S,12] z)"
        " { m = MatMul(x, w)  y = Add(m, b)  z = MatMul(x, g) }",
        opset=21,
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    run_pass(ConvsToProducts(), after)
    assert _counts(after) == _counts(before)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("v = Conv(t, k1)", None),
        ("v = Conv<pads=[1,1,1,1]>(t, k3)", "no pointwise convolution"),
        ("v = Conv<strides=[2,2]>(t, k1)", "no pointwise convolution"),
        ("v = Conv<group=2>(t, kg)", "no pointwise convolution"),
        ("r = Conv(t, k1)  v = Exp(r)", "no pointwise convolution"),
        ("v = Relu(t)", "there is no convolution"),
        ("v = Relu(z)", "comes from elsewhere"),
    ],
)
def test_refuses(freeze: Freeze, body: str, reason: str | None) -> None:
    kernels = "float[8,8,1,1] k1, float[8,8,3,3] k3, float[8,4,1,1] kg"
    source = "x2" if "(z)" in body else "x"
    model = freeze(
        f"g (float[2,3,5,8] x, float[2,8,3,5] x2, {kernels}) => (float[2,H,W,8] y)"
        f" {{ t = Transpose<perm=[0,3,1,2]>(x)  {body.replace('(z)', f'({source})')}"
        "  y = Transpose<perm=[0,2,3,1]>(v) }",
        opset=21,
    )
    if reason is not None:
        assert_refuses(ConvsToProducts(), model, reason)
        return
    after = model.clone()
    run_pass(ConvsToProducts(), after)
    assert _counts(after) == {"MatMul": 1}
    assert_same_outputs(model, after)


def test_refuses_where_others_read_what_is_between(freeze: Freeze) -> None:
    model = freeze(
        "g (float[2,3,5,8] x, float[8,8,1,1] k) => (float[2,3,5,8] y, float z)"
        " { t = Transpose<perm=[0,3,1,2]>(x)  v = Conv(t, k)  z = ReduceMax<keepdims=0>(v)"
        "  y = Transpose<perm=[0,2,3,1]>(v) }",
        opset=21,
    )
    assert_refuses(ConvsToProducts(), model, "others read")


def test_a_fused_file_is_quantized_as_the_original(freeze: Freeze) -> None:
    rng = np.random.default_rng(0)
    before = freeze(
        "g (float[B,S,64] x, float[64,256] w, float[256] b, float[256,64] u) => (float[B,S,64] y)"
        " { m = MatMul(x, w)  h = Add(m, b)  a = Gelu(h)  y = MatMul(a, u) }",
        opset=21,
        w=rng.standard_normal((64, 256)),
        u=rng.standard_normal((256, 64)),
    )
    after = before.clone()
    run_pass(Pointwise(), after, target=_EAGER)
    assert _counts(after)["Conv"] == 2
    run_pass(Pipeline.parse("quant{mode=dynamic}"), after)
    assert _counts(after)["MatMulInteger"] == 2


_MAP = "t = Transpose<perm=[0,3,1,2]>"
_BACK = "Transpose<perm=[0,2,3,1]>(c)"


@pytest.mark.parametrize(
    ("y", "body"),
    [
        (
            "float[1,B,S,12] y",
            f"e = Unsqueeze(x, zero)  {_MAP}(e)  c = Conv(t, k)  y = {_BACK}",
        ),
        (
            "float[B,S,12] y, float[1,B,S,12] z",
            f"e = Unsqueeze(x, zero)  {_MAP}(e)  c = Conv(t, k)  z = {_BACK}  y = Squeeze(z, zero)",
        ),
    ],
)
def test_a_map_that_stays_one_keeps_its_axes(freeze: Freeze, y: str, body: str) -> None:
    before = freeze(
        f"g (float[B,S,8] x, float[12,8,1,1] k, int64[1] zero) => ({y}) {{ {body} }}",
        zero=np.array([0]),
    )
    after = rewritten(ConvsToProducts(), before)
    assert (_counts(after)["MatMul"], _counts(after)["Conv"]) == (1, 0)


def test_a_map_that_was_one_before_is_no_rows(freeze: Freeze) -> None:
    before = freeze(
        "g (float[1,B,S,8] x, float[12,8,1,1] k, int64[1] zero) => (float[B,S,12] y)"
        f" {{ {_MAP}(x)  c = Conv(t, k)  b = {_BACK}  y = Squeeze(b, zero) }}",
        zero=np.array([0]),
    )
    after = rewritten(ConvsToProducts(), before)
    assert _counts(after)["Squeeze"] == 1
