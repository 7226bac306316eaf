# SPDX-License-Identifier: Apache-2.0
"""A convolution of an upsampled map is computed before, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.enlarge.enlarge import FuseEnlarge
from burnish.passes.fuse.enlarge.upsampled import (
    conv_of_upsampled,
    conv_of_upsampled_parts,
    pointwise_before_resize,
)
from burnish.testing import assert_refuses, rewritten, run_pass

Freeze = Callable[..., ir.Model]

_BLOCKS = dataclasses.replace(Target.parse("cpu"), isa=frozenset({"sse4.1", "avx2", "avx512"}))
_NO_BLOCKS = dataclasses.replace(_BLOCKS, isa=frozenset())

_FLOOR = 'coordinate_transformation_mode="asymmetric", nearest_mode="floor"'


def _model(
    freeze: Freeze,
    conv: str = "Conv<pads=[1,1,1,1]>(r, w, b)",
    *,
    kernel: str = "3,3",
    scale: float = 2,
    how: str = _FLOOR,
    channels: int = 32,
    made: int = 32,
    opset: int = 21,
) -> ir.Model:
    weights = f"float[{made},{channels},{kernel}] w, float[{made}] b"
    return freeze(
        f"g (float[1,{channels},5,4] x, {weights}, float[4] s)"
        f" => (float[1,{made},H,W] y) {{ r = Resize<{how}>(x, , s)  y = {conv} }}",
        opset=opset,
        s=np.array([1, 1, scale, scale]),
    )


@pytest.mark.parametrize(
    ("conv", "kernel"),
    [
        ("Conv<pads=[1,1,1,1]>(r, w, b)", "3,3"),
        ("Conv<pads=[1,1,1,1]>(r, w)", "3,3"),
        ("Conv<pads=[2,0,2,0]>(r, w, b)", "5,1"),
        ("Conv<pads=[0,1,1,0]>(r, w, b)", "2,2"),
        ('Conv<auto_pad="SAME_UPPER">(r, w, b)', "2,3"),
        ('Conv<auto_pad="SAME_LOWER">(r, w, b)', "4,3"),
    ],
)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("how", [_FLOOR, 'mode="nearest"'])
def test_phases_keep_the_numbers(
    freeze: Freeze, conv: str, kernel: str, scale: int, how: str
) -> None:
    before = _model(freeze, conv, kernel=kernel, scale=scale, how=how)
    after = rewritten(conv_of_upsampled, before)
    kinds = Counter(node.op_type for node in after.graph)
    assert kinds == {"Conv": scale * scale, "Concat": 1, "DepthToSpace": 1}


@pytest.mark.parametrize(
    ("conv", "kernel", "scale", "cut"),
    [
        ("Conv<pads=[1,1,1,1]>(r, w, b)", "3,3", 2, True),
        ("Conv<pads=[1,1,1,1]>(r, w)", "3,3", 2, True),
        ("Conv<pads=[2,2,2,2]>(r, w, b)", "5,5", 2, False),
        ("Conv<pads=[2,1,2,1]>(r, w, b)", "5,3", 2, True),
        ("Conv<pads=[3,3,3,3]>(r, w, b)", "7,7", 3, False),
        ("Conv<pads=[0,3,3,0]>(r, w, b)", "4,4", 3, False),
        ("Conv<pads=[2,2,2,2]>(r, w, b)", "5,5", 4, True),
        ('Conv<auto_pad="SAME_UPPER">(r, w, b)', "5,5", 4, True),
    ],
)
def test_phases_that_fill_blocks_together_are_one_convolution(
    freeze: Freeze, conv: str, kernel: str, scale: int, cut: bool
) -> None:
    before = _model(freeze, conv, kernel=kernel, scale=scale, made=36)
    after = rewritten(conv_of_upsampled, before, target=_BLOCKS)
    kinds = [node.op_type for node in after.graph]
    assert kinds == ["Conv", "DepthToSpace"] + ["Slice"] * cut


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({"made": 48}, _BLOCKS),  # whole blocks
        ({"made": 60}, _BLOCKS),  # a sixteenth would be saved
        ({"made": 36, "scale": 3}, _BLOCKS),  # windows of one, two and two pixels
        ({"made": 36}, _NO_BLOCKS),
    ],
)
def test_phases_stay_apart(freeze: Freeze, given: dict[str, Any], target: Target) -> None:
    before = _model(freeze, **given)
    after = rewritten(conv_of_upsampled, before, target=target)
    assert [node.op_type for node in after.graph].count("Conv") == given.get("scale", 2) ** 2


def test_phases_read_no_more_than_they_need(freeze: Freeze) -> None:
    model = _model(freeze)
    run_pass(conv_of_upsampled, model)
    kernels = [node.inputs[1].shape for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert [tuple(shape or ())[2:] for shape in kernels] == [(2, 2)] * 4


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"conv": "Conv(r, w, b)"}, "does not keep the size"),
        ({"conv": "Conv<pads=[1,1,1,1], strides=[2,2]>(r, w)"}, "strides or dilations"),
        ({"scale": 1.5}, "not enlarged by 2, 3 or 4"),
        ({"how": 'mode="linear"'}, "not enlarged by repetition"),
        ({"channels": 8}, "few channels"),
    ],
)
def test_phases_refuse(freeze: Freeze, given: dict[str, object], reason: str) -> None:
    assert_refuses(conv_of_upsampled, _model(freeze, **given), reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [_FLOOR, 'mode="linear"'])
def test_a_pointwise_convolution_comes_first(freeze: Freeze, how: str) -> None:
    before = _model(freeze, "Conv(r, w, b)", kernel="1,1", scale=2.5, how=how)
    after = rewritten(FuseEnlarge(), before)
    assert [node.op_type for node in after.graph] == ["Conv", "Resize"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"conv": "Conv<pads=[1,1,1,1]>(r, w)"}, "pads"),
        ({"scale": 0.5}, "not enlarged"),
        ({"how": 'mode="cubic"'}, "reach beyond"),
        ({"channels": 16}, "more channels to enlarge"),
        ({"kernel": "3,3"}, "not pointwise"),
    ],
)
def test_a_pointwise_convolution_stays(
    freeze: Freeze, given: dict[str, object], reason: str
) -> None:
    all_given = {"conv": "Conv(r, w, b)", "kernel": "1,1", **given}
    assert_refuses(pointwise_before_resize, _model(freeze, **all_given), reason)  # type: ignore[arg-type]


def _parts(
    freeze: Freeze,
    scales: tuple[float, ...],
    rest: bool = True,
    *,
    channels: int = 64,
    kernel: int = 3,
    more: str = "pads=[1,1,1,1]",
) -> ir.Model:
    """Concat of maps of 24x48, each enlarged to that by its scale, and perhaps of one that is."""
    whole = channels * (len(scales) + rest)
    inputs = [
        f"float[1,{channels},{int(24 / scale)},{int(48 / scale)}] x{i}, float[4] s{i}"
        for i, scale in enumerate(scales)
    ]
    steps = [f"r{i} = Resize<{_FLOOR}>(x{i}, , s{i})" for i in range(len(scales))]
    parts = [f"r{i}" for i in range(len(scales))] + ["x"] * rest
    return freeze(
        f"g ({', '.join(inputs)}, float[1,{channels},24,48] x,"
        f" float[8,{whole},{kernel},{kernel}] w, float[8] b) => (float[1,8,H,W] y)"
        f" {{ {' '.join(steps)} c = Concat<axis=1>({', '.join(parts)})"
        f" y = Conv<{more}>(c, w, b) }}",
        **{f"s{i}": np.array([1, 1, scale, scale]) for i, scale in enumerate(scales)},
    )


@pytest.mark.parametrize(
    ("scales", "rest", "kinds"),
    [
        ((2,), True, {"Conv": 5, "Concat": 1, "DepthToSpace": 1, "Add": 1}),
        ((8, 4, 2), True, {"Resize": 2, "Conv": 5, "Concat": 2, "DepthToSpace": 1, "Add": 1}),
        ((4, 2), False, {"Resize": 1, "Conv": 4, "Concat": 2, "DepthToSpace": 1}),
        ((3,), True, {"Conv": 10, "Concat": 1, "DepthToSpace": 1, "Add": 1}),
        ((2, 3), True, {"Conv": 14, "Concat": 2, "DepthToSpace": 2, "Add": 2}),
    ],
)
def test_parts_that_were_enlarged_are_convolved_before(
    freeze: Freeze, scales: tuple[float, ...], rest: bool, kinds: dict[str, int]
) -> None:
    before = _parts(freeze, scales, rest)
    after = rewritten(conv_of_upsampled_parts, before, target=_NO_BLOCKS)
    assert Counter(node.op_type for node in after.graph) == kinds


def test_phases_of_parts_that_fill_blocks_together_are_one_convolution(freeze: Freeze) -> None:
    before = _parts(freeze, (4, 2))
    after = rewritten(conv_of_upsampled_parts, before, target=_BLOCKS)
    kinds = Counter(node.op_type for node in after.graph)
    assert kinds == dict.fromkeys(("Resize", "Concat", "DepthToSpace", "Slice", "Add"), 1) | {
        "Conv": 2
    }


@pytest.mark.parametrize(
    ("scales", "given", "reason"),
    [
        ((1,), {}, "no part is enlarged by repetition"),
        ((1.5,), {}, "no part is enlarged by repetition"),
        ((2,), {"channels": 16}, "few products"),
        ((2,), {"more": "pads=[1,1,1,1], strides=[2,2]"}, "strides or dilations"),
        ((2,), {"kernel": 1, "more": "pads=[0,0,0,0]"}, "pointwise"),
    ],
)
def test_parts_stay(
    freeze: Freeze, scales: tuple[float, ...], given: dict[str, object], reason: str
) -> None:
    assert_refuses(conv_of_upsampled_parts, _parts(freeze, scales, **given), reason)  # type: ignore[arg-type]
