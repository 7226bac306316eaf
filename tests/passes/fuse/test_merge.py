# SPDX-License-Identifier: Apache-2.0
"""Products of the same input are merged where the target is known to gain by it, and only there."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.merge import MergeProducts
from burnish.testing import assert_refuses, assert_same_outputs, parse, rewrites, run_pass

_WELCOME = tuple(Preference(f"merged.{name}", True) for name in ("MatMul", "Gemm", "Conv"))
CPU = Target.parse("cpu")
GAINS = replace(CPU, preferences=_WELCOME)


def _weights(name: str, *shape: int) -> str:
    size = 1
    for dim in shape:
        size *= dim
    numbers = ", ".join(str((7 * i + len(name)) % 11 / 4 - 1) for i in range(size))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


_CASES = {
    "MatMul": (
        "g (float[B,S,4] x) => (float[] u, float[] v, float[] w)"
        f"<{_weights('a', 4, 3)}, {_weights('bb', 4, 5)}, {_weights('ccc', 4, 2)}>"
        "{ u = MatMul(x, a) v = MatMul(x, bb) z = MatMul(x, ccc) w = Relu(z) }",
        ["MatMul", "Split", "Relu"],
    ),
    "Gemm": (
        "g (float[N,4] x) => (float[] u, float[] v)"
        f"<{_weights('a', 3, 4)}, {_weights('bb', 5, 4)}, {_weights('c', 3)}, {_weights('dd', 5)}>"
        "{ u = Gemm<transB=1>(x, a, c) v = Gemm<transB=1>(x, bb, dd) }",
        ["Gemm", "Split"],
    ),
    "Conv": (
        "g (float[1,2,5,5] x) => (float[] u, float[] v)"
        f"<{_weights('a', 3, 2, 1, 1)}, {_weights('bb', 4, 2, 1, 1)}>"
        "{ u = Conv(x, a) y = Conv(x, bb) v = Relu(y) }",
        ["Conv", "Split", "Relu"],
    ),
}


@pytest.mark.parametrize("name", _CASES)
@pytest.mark.parametrize("opset", [11, 21])
def test_they_are_merged_and_split(name: str, opset: int) -> None:
    text, after = _CASES[name]
    model = parse(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    original = model.clone()
    run_pass(MergeProducts(), model, target=GAINS)
    assert [node.op_type for node in model.graph] == after
    assert_same_outputs(original, model)


@pytest.mark.parametrize("name", _CASES)
def test_a_target_that_loses_or_is_unknown_keeps_them_apart(name: str) -> None:
    text, _ = _CASES[name]
    assert_refuses(MergeProducts(), parse(text), "target cpu runs it no faster fused", target=CPU)
    unknown = replace(CPU, preferences=())
    assert_refuses(MergeProducts(), parse(text), "not measured on target cpu", target=unknown)


@pytest.mark.parametrize(
    "body",
    [
        "u = MatMul(x, a) v = MatMul(z, bb)",
        "u = MatMul(x, a) v = MatMul(x, z)",
        "u = Gemm(x, a) v = Gemm<alpha=2.0>(x, bb)",
        "u = Gemm(x, a, row) v = Gemm(x, bb)",
        "u = Gemm(x, a) v = Gemm<transB=1>(x, square)",
    ],
)
def test_what_is_not_alike_is_not_merged(body: str) -> None:
    model: ir.Model = parse(
        "g (float[4,4] x, float[4,4] z) => (float[] u, float[] v)"
        f"<{_weights('a', 4, 3)}, {_weights('bb', 4, 5)}, {_weights('row', 3)},"
        f"{_weights('square', 4, 4)}> {{ {body} }}"
    )
    assert not rewrites(run_pass(MergeProducts(), model, target=GAINS))
