# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions in a row are computed before enlarging, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`:
relative 1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.enlarge.transposed import PREFERENCE, transposed_pair
from burnish.testing import assert_refuses, refusals, rewritten, run_pass

Freeze = Callable[..., ir.Model]


def _model(
    freeze: Freeze,
    *,
    first: int = 2,
    second: int = 2,
    channels: int = 40,
    last: int = 1,
    bias: str = ", b",
    between: str = "Relu(t)",
    more: str = "",
) -> ir.Model:
    return freeze(
        f"g (float[N,{channels},H,W] x, float[{channels},6,{first},{first}] w, float[6] b,"
        f" float[6,{last},{second},{second}] u, float[{last}] c) => (float[N,{last},P,Q] y) {{"
        f" t = ConvTranspose<strides=[{first},{first}]{more}>(x, w{bias})  r = {between}"
        f" y = ConvTranspose<strides=[{second},{second}]>(r, u, c) }}"
    )


def _kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(("first", "second", "last"), [(2, 2, 1), (2, 2, 2), (3, 2, 1), (2, 3, 1)])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_pair_keeps_the_numbers(
    freeze: Freeze, first: int, second: int, last: int, bias: str
) -> None:
    before = _model(freeze, first=first, second=second, last=last, bias=bias)
    after = rewritten(transposed_pair, before)
    assert _kinds(after) == ["Conv", "Relu", "Conv", "DepthToSpace"]


@pytest.mark.parametrize("between", ["HardSigmoid<alpha=0.3>(t)", "Gelu(t)", "LeakyRelu(t)"])
def test_keeps_what_stands_between(freeze: Freeze, between: str) -> None:
    before = _model(freeze, between=between)
    after = rewritten(transposed_pair, before)
    assert "ConvTranspose" not in _kinds(after)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"more": ", pads=[1,1,1,1]"}, "results overlap, or not all are kept"),
        ({"more": ", output_padding=[1,1]"}, "results overlap, or not all are kept"),
        ({"channels": 15}, "would take longer"),
    ],
)
def test_refuses(freeze: Freeze, given: dict[str, object], reason: str) -> None:
    assert_refuses(transposed_pair, _model(freeze, **given), reason)  # type: ignore[arg-type]


def test_refuses_a_kernel_larger_than_its_stride(freeze: Freeze) -> None:
    model = freeze(
        "g (float[1,40,3,3] x, float[40,6,3,3] w, float[6,1,2,2] u) => (float[1,1,P,Q] y) {"
        " t = ConvTranspose<strides=[2,2]>(x, w)  r = Relu(t)"
        " y = ConvTranspose<strides=[2,2]>(r, u) }"
    )
    assert_refuses(transposed_pair, model, "results overlap")


def test_refuses_where_the_target_does_not_prefer_it(freeze: Freeze) -> None:
    target = dataclasses.replace(Target.parse("cpu"), preferences=(Preference(PREFERENCE, False),))
    ctx = run_pass(transposed_pair, _model(freeze), target=target)
    assert any("no faster fused" in reason for reason in refusals(ctx)["transposed-pair"])
