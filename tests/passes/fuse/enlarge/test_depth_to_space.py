# SPDX-License-Identifier: Apache-2.0
"""DepthToSpace moves whole runs of channels, or rows, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`:
relative 1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.enlarge.depth_to_space import (
    ROWS,
    activation_before_depth_to_space,
    depth_to_space_by_rows,
    depth_to_space_by_runs,
    phases_first,
    pixel_shuffle,
)
from burnish.passes.fuse.enlarge.enlarge import FuseEnlarge
from burnish.passes.rule import Rule
from burnish.testing import (
    assert_refuses,
    parse,
    refusals,
    rewritten,
    run_pass,
)

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
    after = rewritten(FuseEnlarge(), before)
    assert "DepthToSpace" not in _kinds(after)
    assert _kinds(after).count("Transpose") == 3


def test_runs_are_found_behind_an_activation(freeze: Freeze) -> None:
    shuffle = 'DepthToSpace<blocksize=2, mode="CRD">'
    before = _model(freeze, shuffle, conv="HardSigmoid<alpha=0.3>(a)", first="a = Conv(x, w)")
    after = rewritten(FuseEnlarge(), before)
    assert _kinds(after)[:2] == ["Conv", "HardSigmoid"]
    assert "DepthToSpace" not in _kinds(after)


def test_the_phases_of_several_convolutions_are_joined(freeze: Freeze) -> None:
    before = freeze(
        "g (float[N,8,3,5] x, float[24,8,1,1] w, float[72,8,1,1] v) => (float[N,24,6,10] y)"
        " { c = Conv(x, w)  d = Conv(x, v)  e = Concat<axis=1>(c, d)"
        " y = DepthToSpace<blocksize=2>(e) }"
    )
    after = rewritten(depth_to_space_by_runs, before)
    assert "DepthToSpace" not in _kinds(after)


def test_without_open_sizes_rows_are_moved(freeze: Freeze) -> None:
    """The runtime would take the first Transpose past the Reshape, and into the second."""
    before = freeze(
        "g (float[1,8,3,5] x, float[64,8,1,1] w) => (float[1,16,6,10] y)"
        " { c = Conv(x, w)  y = DepthToSpace<blocksize=2>(c) }"
    )
    assert_refuses(depth_to_space_by_runs, before.clone(), "all sizes are known")
    after = rewritten(FuseEnlarge(), before)
    assert "DepthToSpace" not in _kinds(after)
    assert _kinds(after).count("Transpose") == 2


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


def test_an_activation_goes_before_the_map_is_enlarged(freeze: Freeze) -> None:
    before = freeze(
        "g (float[1,8,3,5] x, float[12,8,1,1] w) => (float[1,3,6,10] y)"
        ' { c = Conv(x, w)  d = DepthToSpace<blocksize=2, mode="CRD">(c)  y = Sigmoid(d) }'
    )
    after = rewritten(activation_before_depth_to_space, before)
    assert _kinds(after) == ["Conv", "Sigmoid", "DepthToSpace"]


def test_an_activation_stays_where_no_convolution_takes_it_in() -> None:
    model = parse(
        "g (float[1,12,3,5] x) => (float[1,3,6,10] y)"
        " { d = DepthToSpace<blocksize=2>(x)  y = Sigmoid(d) }"
    )
    assert_refuses(activation_before_depth_to_space, model, "no convolution")


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mode", ["", ', mode="CRD"'])
@pytest.mark.parametrize(("scale", "channels"), [(2, 1), (2, 3), (3, 3), (4, 2)])
def test_rows_keep_every_bit(
    freeze: Freeze, batch: int, mode: str, scale: int, channels: int
) -> None:
    before = freeze(
        f"g (float[N,{scale**2 * channels},H,W] x) => (float[N,{channels},P,Q] y)"
        f" {{ y = DepthToSpace<blocksize={scale}{mode}>(x) }}"
    )
    after = before.clone()
    run_pass(depth_to_space_by_rows, after)
    assert _kinds(after).count("Transpose") == 2
    assert "DepthToSpace" not in _kinds(after)
    shape = (batch, scale**2 * channels, 3, 5)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        np.testing.assert_array_equal(old.run({"x": x})["y"], new.run({"x": x})["y"])


@pytest.mark.parametrize("rule", [depth_to_space_by_rows, depth_to_space_by_runs])
def test_an_empty_batch_stays_empty(freeze: Freeze, rule: Rule) -> None:
    before = freeze(
        "g (float[N,8,3,5] x, float[64,8,1,1] w) => (float[N,16,6,10] y)"
        " { c = Conv(x, w)  y = DepthToSpace<blocksize=2>(c) }"
    )
    after = rewritten(rule, before)
    assert "DepthToSpace" not in _kinds(after)
    with onnxruntime.session(after) as session:  # as the mask head of a detector that finds nothing
        assert session.run({"x": np.empty((0, 8, 3, 5), np.float32)})["y"].shape == (0, 16, 6, 10)


def test_rows_wait_for_an_activation_to_go_first(freeze: Freeze) -> None:
    before = freeze(
        "g (float[1,8,3,5] x, float[12,8,1,1] w) => (float[1,3,6,10] y)"
        " { c = Conv(x, w)  d = DepthToSpace<blocksize=2>(c)  y = Sigmoid(d) }"
    )
    assert_refuses(depth_to_space_by_rows, before.clone(), "an activation behind it goes first")
    after = rewritten(FuseEnlarge(), before)
    assert _kinds(after)[:2] == ["Conv", "Sigmoid"]
    assert _kinds(after).count("Transpose") == 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("float16[1,12,3,5] x) => (float16", "only float32"),
        ("float[1,C,3,5] x) => (float", "the number of channels is unknown"),
    ],
)
def test_rows_refuse(given: str, reason: str) -> None:
    model = parse(f"g ({given}[1,D,6,10] y) {{ y = DepthToSpace<blocksize=2>(x) }}")
    assert_refuses(depth_to_space_by_rows, model, reason)


def test_rows_stay_where_the_target_does_not_prefer_them() -> None:
    model = parse(
        "g (float[1,12,3,5] x) => (float[1,3,6,10] y) { y = DepthToSpace<blocksize=2>(x) }"
    )
    target = dataclasses.replace(Target.parse("cpu"), preferences=(Preference(ROWS, False),))
    ctx = run_pass(depth_to_space_by_rows, model, target=target)
    assert any("no faster fused" in reason for reason in refusals(ctx)["depth-to-space-by-rows"])


_SPELLED = """g (float[N,12,4,5] x) => (float[N,{out}] y) {{
    s = Constant<value_ints=[{split}]>()  o = Constant<value_ints=[{whole}]>()
    a = Reshape(x, s)  t = Transpose<perm=[{perm}]>(a)  y = Reshape(t, o)
}}"""


@pytest.mark.parametrize(
    ("mode", "split", "perm"),
    [("CRD", "-1,3,2,2,4,5", "0,1,4,2,5,3"), ("DCR", "-1,2,2,3,4,5", "0,3,4,1,5,2")],
)
def test_a_shuffle_spelled_out_is_found(mode: str, split: str, perm: str) -> None:
    before = parse(_SPELLED.format(out="3,8,10", split=split, perm=perm, whole="-1,3,8,10"))
    after = rewritten(pixel_shuffle, before)
    (node,) = (node for node in after.graph if node.op_type == "DepthToSpace")
    assert node.attributes.get_string("mode") == mode
    assert node.attributes.get_int("blocksize") == 2


@pytest.mark.parametrize(
    ("out", "split", "perm", "whole", "reason"),
    [
        ("3,8,10", "-1,3,2,2,4,5", "0,1,4,3,5,2", "-1,3,8,10", "not what is put between"),
        (
            "3,10,8",
            "-1,3,2,2,4,5",
            "0,1,4,2,5,3",
            "-1,3,10,8",
            "not the rows and columns of phases",
        ),
        ("3,80", "-1,3,2,2,4,5", "0,1,4,2,5,3", "-1,3,80", "not a map that becomes another"),
        (
            "3,8,10",
            "-1,3,2,2,5,4",
            "0,1,4,2,5,3",
            "-1,3,8,10",
            "not the rows and columns of phases",
        ),
        ("6,4,10", "-1,6,1,2,4,5", "0,1,4,2,5,3", "-1,6,4,10", "by one known number"),
    ],
)
def test_other_moves_are_left(out: str, split: str, perm: str, whole: str, reason: str) -> None:
    model = parse(_SPELLED.format(out=out, split=split, perm=perm, whole=whole))
    assert_refuses(pixel_shuffle, model, reason)


def test_a_shuffle_of_an_unknown_size_is_left() -> None:
    text = _SPELLED.format(
        out="3,A,B", split="-1,3,2,2,4,5", perm="0,1,4,2,5,3", whole="-1,3,8,10"
    ).replace("[N,12,4,5]", "[N,12,H,W]")
    assert_refuses(pixel_shuffle, parse(text), "the size of the map is unknown")
