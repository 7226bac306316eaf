# SPDX-License-Identifier: Apache-2.0
"""A convolution of parts of blocks is split, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.conv.concat import split_concat
from burnish.testing import assert_refuses, assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]

_CPU = dataclasses.replace(Target.parse("cpu"), isa=frozenset({"sse4.1", "avx2", "avx512"}))
_BODY = "c = Conv(x, w)  h = Relu(c)  p = MaxPool<kernel_shape=[1,1]>(h)  t = Conv(h, u)  "
_JOIN = "j = Concat<axis=1>(p, t)  "


def _model(freeze: Freeze, n: int, m: int, last: str, kernel: int = 1) -> ir.Model:
    weights = f"float[{n},3,1,1] w, float[{m},{n},1,1] u, float[8,{n + m},{kernel},{kernel}] k"
    return freeze(
        f"g (float[1,3,6,7] x, {weights}, float[8] b) => (float[1,8,H,W] y) {{ {_BODY}{last} }}"
    )


@pytest.mark.parametrize(
    ("last", "kernel"),
    [
        (f"{_JOIN}y = Conv(j, k)", 1),
        (f"{_JOIN}s = Conv<pads=[1,1,1,1], strides=[2,2]>(j, k, b)  y = Relu(s)", 3),
        ("j = Concat<axis=1>(t, p)  y = Conv(j, k, b)", 1),
    ],
)
def test_fires_and_keeps_the_numbers(freeze: Freeze, last: str, kernel: int) -> None:
    before = _model(freeze, 24, 20, last, kernel)
    after = before.clone()
    run_pass(split_concat, after, target=_CPU)
    kinds = [node.op_type for node in after.graph]
    assert kinds.count("Conv") == 4
    assert kinds.count("Add") == 1
    assert "Concat" not in kinds
    assert_same_outputs(before, after)


@pytest.mark.parametrize(
    ("n", "m", "last", "kernel", "reason"),
    [
        (16, 32, f"{_JOIN}y = Conv(j, k)", 1, "fill whole blocks"),
        (24, 24, f"{_JOIN}y = Conv(j, k)", 7, "would take longer"),
        (24, 24, "z = Neg(t)  j = Concat<axis=1>(p, z)  y = Conv(j, k)", 1, "not made in blocks"),
    ],
)
def test_refuses(freeze: Freeze, n: int, m: int, last: str, kernel: int, reason: str) -> None:
    assert_refuses(split_concat, _model(freeze, n, m, last, kernel), reason, target=_CPU)


def test_refuses_on_a_target_without_blocks(freeze: Freeze) -> None:
    target = dataclasses.replace(_CPU, isa=frozenset())
    model = _model(freeze, 24, 20, f"{_JOIN}y = Conv(j, k)")
    assert_refuses(split_concat, model, "does not run it in blocks", target=target)
