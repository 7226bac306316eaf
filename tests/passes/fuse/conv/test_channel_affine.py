# SPDX-License-Identifier: Apache-2.0
"""Scales and shifts of channels that nothing else takes.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.conv.channel_affine import channel_affine
from burnish.testing import (
    assert_becomes,
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    run_pass,
)

Freeze = Callable[..., ir.Model]

WANTS = dataclasses.replace(Target.parse("cpu"), preferences=())


def test_fires() -> None:
    before = parse(
        "g (float[N,2,5] x) => (float[N,2,5] y)"
        "<float[2,1] a = {2, 4}, float[1,2,1] c = {5, 6}> { t = Mul(a, x) y = Add(t, c) }"
    )
    after = parse(
        "g (float[N,2,5] x) => (float[N,2,5] y) <float[2] a = {2, 4}, float[2] c = {5, 6},"
        " float[2] zero = {0, 0}, float[2] one = {1, 1}>"
        "{ y = BatchNormalization<epsilon=0.0>(x, a, c, zero, one) }"
    )
    assert_rewrites(channel_affine, before, after)


@pytest.mark.parametrize("constants", ["float[3,1,1] a, float c", "float a, float[1,3,1,1] c"])
@pytest.mark.parametrize("nodes", ["t = Div(x, a) y = Sub(t, c)", "t = Mul(x, a) y = Add(c, t)"])
def test_spellings(freeze: Freeze, constants: str, nodes: str) -> None:
    model = freeze(f"g (float[2,3,4,5] x, {constants}) => (float[2,3,4,5] y) {{ {nodes} }}", a=3)
    assert_becomes(channel_affine, model, ["BatchNormalization"])


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("float[2,3] x, float[3] a, float[3] c", "fewer than three axes"),
        ("float[2,K,5] x, float[3,1] a, float[3,1] c", "the number of channels is unknown"),
        ("float[2,3,5] x, float[5] a, float[5] c", "differs along more than the channels"),
        ("float16[2,3,5] x, float16[3,1] a, float16[3,1] c", "target cpu runs it no faster fused"),
        ("int32[2,3,5] x, int32[3,1] a, int32[3,1] c", "integers are not normalized"),
        ("float[2,3,5] x, float[3,1] a, float[3,1] vast", "so large that adding it rounds"),
    ],
)
def test_refuses(freeze: Freeze, signature: str, reason: str) -> None:
    dtype, last = signature.split("[")[0], signature.split()[-1]
    text = f"g ({signature}) => ({dtype}[A,B] y) {{ t = Mul(x, a) y = Add(t, {last}) }}"
    text = text if ",5]" not in signature else text.replace("[A,B] y", "[A,B,C] y")
    assert_refuses(channel_affine, freeze(text, vast=1e9), reason)


def test_other_targets_may_want_it_in_double(freeze: Freeze) -> None:
    model = freeze(
        "g (double[2,3,5] x, double[3,1] a, double[3,1] c) => (double[2,3,5] y)"
        "{ t = Mul(x, a) y = Add(t, c) }"
    )
    original = model.clone()
    run_pass(channel_affine, model, target=WANTS)
    assert [node.op_type for node in model.graph] == ["BatchNormalization"]
    assert_same_outputs(original, model)
