# SPDX-License-Identifier: Apache-2.0
"""DepthToSpace moves whole runs of channels, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`:
relative 1e-4 for float32.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.depth_to_space import (
    FuseDepthToSpace,
    depth_to_space_by_runs,
    phases_first,
)
from burnish.testing import assert_refuses, assert_same_outputs, run_pass

Freeze = Callable[..., ir.Model]


def _model(
    freeze: Freeze,
    shuffle: str = "DepthToSpace<blocksize=2>",
    *,
    filters: int = 64,
    scale: int = 2,
    conv: str = "Conv(x, w, b)",
    first: str = "",
) -> ir.Model:
    return freeze(
        f"g (float[N,8,H,W] x, float[{filters},8,1,1] w, float[{filters}] b)"
        f" => (float[N,{filters // scale**2},P,Q] y) {{ {first} c = {conv}  y = {shuffle}(c) }}"
    )


def _kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("mode", ["", ', mode="CRD"'])
@pytest.mark.parametrize("conv", ["Conv(x, w, b)", "Conv(x, w)"])
def test_runs_keep_the_numbers(freeze: Freeze, scale: int, mode: str, conv: str) -> None:
    before = _model(
        freeze,
        f"DepthToSpace<blocksize={scale}{mode}>",
        filters=16 * scale**2,
        scale=scale,
        conv=conv,
    )
    after = before.clone()
    run_pass(FuseDepthToSpace(), after)
    assert "DepthToSpace" not in _kinds(after)
    assert _kinds(after).count("Transpose") == 3
    assert_same_outputs(before, after)


def test_runs_are_found_behind_an_activation(freeze: Freeze) -> None:
    shuffle = 'DepthToSpace<blocksize=2, mode="CRD">'
    before = _model(freeze, shuffle, conv="HardSigmoid<alpha=0.3>(a)", first="a = Conv(x, w)")
    after = before.clone()
    run_pass(FuseDepthToSpace(), after)
    assert _kinds(after)[:2] == ["Conv", "HardSigmoid"]
    assert "DepthToSpace" not in _kinds(after)
    assert_same_outputs(before, after)


def test_the_phases_of_several_convolutions_are_joined(freeze: Freeze) -> None:
    before = freeze(
        "g (float[1,8,3,5] x, float[24,8,1,1] w, float[72,8,1,1] v) => (float[1,24,6,10] y)"
        " { c = Conv(x, w)  d = Conv(x, v)  e = Concat<axis=1>(c, d)"
        " y = DepthToSpace<blocksize=2>(e) }"
    )
    after = before.clone()
    run_pass(depth_to_space_by_runs, after)
    assert "DepthToSpace" not in _kinds(after)
    assert_same_outputs(before, after)


def test_refuses_short_runs(freeze: Freeze) -> None:
    assert_refuses(depth_to_space_by_runs, _model(freeze, filters=12), "short")


def test_refuses_the_other_order(freeze: Freeze) -> None:
    model = _model(freeze, 'DepthToSpace<blocksize=2, mode="CRD">')
    assert_refuses(depth_to_space_by_runs, model, "counted first")


def test_refuses_what_no_convolution_made(freeze: Freeze) -> None:
    model = freeze(
        "g (float[1,64,3,5] x) => (float[1,16,6,10] y)"
        " { c = Sin(x)  y = DepthToSpace<blocksize=2>(c) }"
    )
    assert_refuses(depth_to_space_by_runs, model, "no convolution in blocks")


def test_refuses_to_order_filters_with_groups(freeze: Freeze) -> None:
    model = freeze(
        "g (float[1,8,3,5] x, float[64,4,1,1] w) => (float[1,16,6,10] y)"
        ' { c = Conv<group=2>(x, w)  y = DepthToSpace<blocksize=2, mode="CRD">(c) }'
    )
    assert_refuses(phases_first, model, "groups")
