# SPDX-License-Identifier: Apache-2.0
"""Branches of one input that are added merge into one convolution, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.affine.affine import FuseAffine
from burnish.passes.fuse.conv.branches import merge_branches
from burnish.testing import assert_refuses, rewritten, run_pass

Freeze = Callable[..., ir.Model]

_NORM = "float[8] g, float[8] b, float[8] m, float[8] v"
_SAME = "pads = [1, 1, 1, 1]"


def _model(freeze: Freeze, weights: str, body: str, dtype: str = "float") -> ir.Model:
    text = f"g (float[2,8,9,7] x, {weights}) => (float[2,C,H,W] y) {{ {body} }}"
    return freeze(text.replace("float", dtype), opset=21)


_FIRES = {
    "3x3 and 1x1": (
        "float[6,8,3,3] w, float[6] c, float[6,8,1,1] u, float[6] d",
        f"s = Conv<{_SAME}>(x, w, c)  t = Conv(x, u, d)  y = Add(s, t)",
    ),
    "strides": (
        "float[6,8,3,3] w, float[6,8,1,1] u, float[6] d",
        f"s = Conv<strides = [2, 2], {_SAME}>(x, w)"
        "  t = Conv<strides = [2, 2]>(x, u, d)  y = Add(s, t)",
    ),
    "places that overlap": (
        "float[6,8,3,3] w, float[6,8,3,2] u",
        "s = Conv<pads = [2, 2, 0, 0]>(x, w)  t = Conv<pads = [2, 0, 0, 1]>(x, u)  y = Add(s, t)",
    ),
    "different groups": (
        "float[16,2,3,3] w, float[16,4,3,3] u",
        f"s = Conv<group = 4, {_SAME}>(x, w)  t = Conv<group = 2, {_SAME}>(x, u)  y = Add(s, t)",
    ),
    "depthwise of three sizes": (
        "float[8,1,5,5] w, float[8,1,3,5] u, float[8,1,1,1] z",
        "s = Conv<group = 8, pads = [2, 2, 2, 2]>(x, w)"
        "  t = Conv<group = 8, pads = [1, 2, 1, 2]>(x, u)"
        "  r = Conv<group = 8>(x, z)  q = Add(s, t)  y = Add(r, q)",
    ),
    "dilated inside of dense": (
        "float[8,1,5,5] w, float[8,1,3,3] u",
        "s = Conv<group = 8, pads = [2, 2, 2, 2]>(x, w)"
        "  t = Conv<group = 8, dilations = [2, 2], pads = [2, 2, 2, 2]>(x, u)  y = Add(s, t)",
    ),
    "both dilated": (
        "float[8,8,3,3] w, float[8,1,3,1] u",
        "s = Conv<dilations = [3, 2], pads = [3, 2, 3, 2]>(x, w)"
        "  t = Conv<group = 8, dilations = [3, 1], pads = [3, 0, 3, 0]>(x, u)  y = Add(s, t)",
    ),
    "auto_pad": (
        "float[6,8,4,3] w, float[6,8,3,3] u",
        's = Conv<auto_pad = "SAME_LOWER">(x, w)  t = Conv<auto_pad = "SAME_UPPER">(x, u)'
        "  y = Add(s, t)",
    ),
    "the norm of the input": (
        f"float[8,8,3,3] w, {_NORM}",
        f"s = Conv<{_SAME}>(x, w)  t = BatchNormalization(x, g, b, m, v)  y = Add(t, s)",
    ),
    "the input": (
        "float[8,1,3,3] w, float[8] c",
        f"s = Conv<group = 8, {_SAME}>(x, w, c)  y = Add(x, s)",
    ),
    "the scaled input": (
        "float[8,1,3,3] w, float[8,1,1] c",
        f"s = Conv<group = 8, {_SAME}>(x, w)  t = Mul(c, x)  y = Add(s, t)",
    ),
    "larger together with a third": (
        "float[8,8,1,3] w, float[8,8,3,1] u, float[8,8,3,3] z",
        "s = Conv<pads = [0, 1, 0, 1]>(x, w)  t = Conv<pads = [1, 0, 1, 0]>(x, u)"
        f"  r = Conv<{_SAME}>(x, z)  q = Add(s, t)  y = Add(q, r)",
    ),
}


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", _FIRES)
def test_fires_and_keeps_the_numbers(freeze: Freeze, case: str, dtype: str) -> None:
    before = _model(freeze, *_FIRES[case], dtype)
    after = rewritten(FuseAffine(), before)
    assert [node.op_type for node in after.graph] == ["Conv"]


def test_something_else_is_added_between(freeze: Freeze) -> None:
    weights = "float[8,8,3,3] w, float[8,8,1,1] u"
    body = f"z = Relu(x)  s = Conv<{_SAME}>(x, w)  t = Conv(x, u)  q = Add(z, t)  y = Add(q, s)"
    before = _model(freeze, weights, body)
    after = rewritten(merge_branches, before)
    assert [node.op_type for node in after.graph] == ["Relu", "Conv", "Add"]


def test_one_and_three_axes(freeze: Freeze) -> None:
    for axes, dims in ((1, "9"), (3, "5,6,7")):
        kernel, point = ",".join(["3"] * axes), ",".join(["1"] * axes)
        text = (
            f"g (float[2,4,{dims}] x, float[4,4,{kernel}] w, float[4,4,{point}] u)"
            f" => (float[2,4,{dims}] y)"
            f"{{ s = Conv<pads = [{','.join(['1'] * axes * 2)}]>(x, w)  t = Conv(x, u)"
            "  q = Add(s, t)  y = Add(q, x) }"
        )
        before = freeze(text, opset=21)
        after = rewritten(merge_branches, before)
        assert [node.op_type for node in after.graph] == ["Conv"]


def test_a_repvgg_block_with_its_norms_is_one_convolution(freeze: Freeze) -> None:
    norms = ", ".join(_NORM.replace(",", f"{i},") + str(i) for i in range(3))
    body = (
        f"s = Conv<{_SAME}>(x, w)  t = Conv(x, u)"
        "  sn = BatchNormalization(s, g0, b0, m0, v0)"
        "  tn = BatchNormalization(t, g1, b1, m1, v1)"
        "  xn = BatchNormalization(x, g2, b2, m2, v2)"
        "  q = Add(sn, tn)  r = Add(q, xn)  y = Relu(r)"
    )
    before = _model(freeze, f"float[8,8,3,3] w, float[8,8,1,1] u, {norms}", body)
    after = rewritten("fuse", before)
    assert [node.op_type for node in after.graph] == ["Conv", "Relu"]


@pytest.mark.parametrize(
    ("weights", "body", "reason"),
    [
        (
            "float[8,8,1,3] w, float[8,8,3,1] u",
            "s = Conv<pads = [0, 1, 0, 1]>(x, w)  t = Conv<pads = [1, 0, 1, 0]>(x, u)"
            "  y = Add(s, t)",
            "more arithmetic",
        ),
        (
            "float[8,1,3,3] w, float[8,8,1,1] u",
            f"s = Conv<group = 8, {_SAME}>(x, w)  t = Conv(x, u)  y = Add(s, t)",
            "more arithmetic",
        ),
        (
            "float[1,8,1,1] w, float[8,8,1,1] u",
            "s = Conv(x, w)  t = Conv(x, u)  y = Add(s, t)",
            "different channels",
        ),
        (
            "float[1,8,1,1] w",
            "s = Conv(x, w)  y = Add(s, x)",
            "different channels",
        ),
        (
            "float[8,8,9,7] w, float[8,8,1,1] u",
            "s = Conv(x, w)  t = Conv(x, u)  y = Add(s, t)",
            "another padding",
        ),
        (
            "float[8,8,9,7] w",
            "s = Conv<strides = [2, 2]>(x, w)  y = Add(s, x)",
            "different strides",
        ),
        (
            "float[8,8,3,3] w, float[8,8,1,1] u",
            's = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)'
            "  t = Conv<strides = [2, 2]>(x, u)  y = Add(s, t)",
            "depends on the size",
        ),
        (
            "float[16,8,3,3] w, float[16,8,1,1] u",
            f"s = Conv<{_SAME}>(x, w)  t = Conv(x, u)  q = Add(s, t)"
            f"  r = Conv<{_SAME}>(x, w)  y = Sub(q, r)",
            "used by other nodes",
        ),
        (
            "float[8,8,1,1] w, float[1,8,9,7] c",
            "s = Conv(x, w)  t = Mul(x, c)  y = Add(s, t)",
            "more than the channels",
        ),
    ],
)
def test_refuses(freeze: Freeze, weights: str, body: str, reason: str) -> None:
    assert_refuses(merge_branches, _model(freeze, weights, body), reason)


def test_an_inner_sum_that_others_use_stays(freeze: Freeze) -> None:
    weights = "float[8,8,3,3] w, float[8,8,3,3] u"
    body = f"s = Conv<{_SAME}>(x, w)  t = Conv<{_SAME}>(x, u)  q = Add(s, t)  y = Mul(q, s)"
    after = _model(freeze, weights, body)
    run_pass(merge_branches, after)
    assert [node.op_type for node in after.graph] == ["Conv", "Conv", "Add", "Mul"]
