# SPDX-License-Identifier: Apache-2.0
"""Products of matrices take the Add behind them, where Gemm means the same.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16, 1e-12 for float64.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.product.gemm import FuseGemm, gemm_add, matmul_add_to_gemm
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    parse,
)

Freeze = Callable[..., ir.Model]


def test_matmul_and_add_become_gemm() -> None:
    before = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y)"
        "{ t = MatMul(x, w)  y = Add(b, t) }"
    )
    after = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) { y = Gemm(x, w, b) }"
    )
    assert_rewrites(matmul_add_to_gemm, before, after)


def test_gemm_takes_a_bias() -> None:
    before = parse(
        "g (float[4,N] x, float[3,4] w, float[1,3] b) => (float[N,3] y)"
        "{ t = Gemm<transA=1, transB=1, alpha=0.5>(x, w)  y = Add(t, b) }"
    )
    after = parse(
        "g (float[4,N] x, float[3,4] w, float[1,3] b) => (float[N,3] y)"
        "{ y = Gemm<transA=1, transB=1, alpha=0.5>(x, w, b) }"
    )
    assert_rewrites(gemm_add, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
@pytest.mark.parametrize("bias", ["float b", "float[1] b", "float[3] b", "float[1,3] b"])
@pytest.mark.parametrize("product", ["MatMul(x, w)", "Gemm<beta=3.0>(x, w)"])
def test_numbers_stay(freeze: Freeze, product: str, bias: str, dtype: str) -> None:
    text = (
        f"g (float[5,4] x, float[4,3] w, {bias}) => (float[5,3] y){{ t = {product} y = Add(t, b) }}"
    )
    model = freeze(text.replace("float", dtype))
    assert_becomes(FuseGemm(), model, ["Gemm"])


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (
            "(float[2,5,4] x, float[4,3] w, float[3] b) => (float[2,5,3] y)",
            "Gemm multiplies matrices only",
        ),
        (
            "(float[5,4] x, float[4,3] w, float[5,3] b) => (float[5,3] y)",
            "what is added is not one row",
        ),
        (
            "(float[1,4] x, float[4,3] w, float[5,1] b) => (float[5,3] y)",
            "what is added is not one row",
        ),
        (
            "(float[5,4] x, float[4,1] w, float[3] b) => (float[5,3] y)",
            "what is added is not one row",
        ),
        (
            "(float[5,4] x, float[4,N] w, float[3] b) => (float[5,3] y)",
            "what is added is not one row",
        ),
        (
            "(float[5,4] x, float[4,3] w, float[1,1,3] b) => (float[1,5,3] y)",
            "what is added is not one row",
        ),
        ("(int32[5,4] x, int32[4,3] w, int32[3] b) => (int32[5,3] y)", "integers are not fused"),
    ],
)
def test_matmul_and_add_are_left(signature: str, reason: str) -> None:
    model = parse(f"g {signature} {{ t = MatMul(x, w) y = Add(t, b) }}")
    assert_refuses(matmul_add_to_gemm, model, reason)


def test_a_bias_for_each_row_stays_behind_gemm() -> None:
    model = parse(
        "g (float[5,4] x, float[4,3] w, float[5,1] b) => (float[5,3] y)"
        "{ t = Gemm(x, w) y = Add(t, b) }"
    )
    assert_refuses(gemm_add, model, "what is added is not one row")
