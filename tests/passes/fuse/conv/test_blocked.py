# SPDX-License-Identifier: Apache-2.0
"""What lies between convolutions stays in the runtime's blocked layout, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.conv.blocked import (
    PREFERENCE,
    FuseBlocked,
    mean_in_blocks,
    shift_between_convs,
)
from burnish.testing import assert_refuses, rewritten, run_pass

Freeze = Callable[..., ir.Model]

_IO = "(float[1,16,H,W] x, float[16,16,1,1] w, float[16,1,3,3] d, float[16] b, float[16,1,1] c"
_OUT = "(float[1,16,H,W] y)"
_FIRST = "t = Conv(x, w, b)  h = HardSwish(t)"
_LAST = "Conv<group = 16, pads = [1, 1, 1, 1]>"


def _model(freeze: Freeze, body: str, more: str = "", out: str = _OUT) -> ir.Model:
    return freeze(f"g {_IO}{more}) => {out} {{ {body} }}")


@pytest.mark.parametrize(
    "body",
    [
        f"{_FIRST}  s = Add(h, c)  y = {_LAST}(s, d)",
        f"t = Conv(x, w, b)  h = Relu(t)  s = Sub(h, c)  y = {_LAST}(s, d)",
    ],
)
def test_a_shift_becomes_a_batch_normalization(freeze: Freeze, body: str) -> None:
    before = _model(freeze, body)
    after = rewritten(shift_between_convs, before)
    kinds = [node.op_type for node in after.graph]
    assert kinds.count("BatchNormalization") == 1
    assert not {"Add", "Sub"}.intersection(kinds)


def test_a_scale_that_others_use_is_taken_in_and_folds_into_them(freeze: Freeze) -> None:
    body = f"{_FIRST}  m = Mul(h, a)  s = Add(m, c)  y = {_LAST}(s, d)  z = Conv(m, v)"
    more = ", float[16,1,1] a, float[8,16,1,1] v"
    out = "(float[1,16,H,W] y, float[1,8,H,W] z)"
    before = _model(freeze, body, more, out)
    after = rewritten(FuseBlocked(), before)
    assert Counter(node.op_type for node in after.graph) == {
        "Conv": 3,
        "HardSwish": 1,
        "BatchNormalization": 1,
    }


def test_the_runtime_then_reorders_once_on_each_side(freeze: Freeze) -> None:
    def reorders(model: ir.Model) -> int:
        executed = census(model, Target.parse("cpu")).executed.ops
        return sum(count for name, count in executed.items() if "::Reorder" in name)

    model = _model(freeze, f"{_FIRST}  s = Add(h, c)  y = {_LAST}(s, d)")
    assert reorders(model) == 4
    run_pass(shift_between_convs, model)
    assert reorders(model) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"h = Sqrt(x)  s = Add(h, c)  y = {_LAST}(s, d)", "not the result of a convolution"),
        (f"{_FIRST}  s = Add(h, c)  y = Sqrt(s)", "no convolution follows"),
    ],
)
def test_refuses(freeze: Freeze, body: str, reason: str) -> None:
    model = _model(freeze, body)
    assert_refuses(shift_between_convs, model, reason)


def test_refuses_a_constant_over_other_axes(freeze: Freeze) -> None:
    body = f"{_FIRST}  s = Add(h, e)  y = {_LAST}(s, d)"
    model = freeze(
        "g (float[1,16,4,5] x, float[16,16,1,1] w, float[16,1,3,3] d, float[16] b, float[4,5] e)"
        f" => (float[1,16,4,5] y) {{ {body} }}"
    )
    assert_refuses(shift_between_convs, model, "more than the channels")


def test_refuses_other_types(freeze: Freeze) -> None:
    model = freeze(
        "g (float16[1,4,3,3] x, float16[4,4,1,1] w, float16[4,1,1] c) => (float16[1,4,3,3] y)"
        "{ h = Conv(x, w)  s = Add(h, c)  y = Conv(s, w) }"
    )
    assert_refuses(shift_between_convs, model, "no blocked layout")


def test_asks_the_table_of_preferences(freeze: Freeze) -> None:
    target = Target.parse("cpu")
    slower = (Preference(PREFERENCE, prefer=False, ratio=0.9), *target.preferences)
    model = _model(freeze, f"{_FIRST}  s = Add(h, c)  y = {_LAST}(s, d)")
    target = dataclasses.replace(target, preferences=slower)
    assert_refuses(shift_between_convs, model, "no faster fused (0.90x)", target=target)


_SUM = "t = Conv(x, w, b)  h = Relu(t)"
_RESIDUAL = "p = Conv(x, w, b)  q = Relu(p)  r = Conv(q, w)  s = Add(q, r)  h = Relu(s)"


@pytest.mark.parametrize("axes", ["2, 3", "-1, 2"])
@pytest.mark.parametrize("first", [_SUM, _RESIDUAL])
def test_a_mean_stays_in_blocks(freeze: Freeze, axes: str, first: str) -> None:
    body = f"{first}  a = Constant<value_ints=[{axes}]>()  y = ReduceMean(h, a)"
    before = _model(freeze, body, out="(float[1,16,1,1] y)")
    after = rewritten(FuseBlocked(), before)
    assert [node.op_type for node in after.graph][-1] == "GlobalAveragePool"


def test_a_mean_that_drops_its_axes_would_be_one_node_more(freeze: Freeze) -> None:
    body = f"{_SUM}  a = Constant<value_ints=[2, 3]>()  y = ReduceMean<keepdims=0>(h, a)"
    assert_refuses(mean_in_blocks, _model(freeze, body, out="(float[1,16] y)"), "drops its axes")


@pytest.mark.parametrize(
    ("body", "axes", "reason"),
    [
        (f"{_SUM}  y = ReduceMean(h, a)", "1, 2", "not the mean of all pixels"),
        ("h = Sin(x)  y = ReduceMean(h, a)", "2, 3", "no convolution in blocks"),
        ("p = Conv(x, w)  h = Add(p, x)  y = ReduceMean(h, a)", "2, 3", "no convolution in blocks"),
        ("p = Conv(x, w)  h = Add(p, c)  y = ReduceMean(h, a)", "2, 3", "no convolution in blocks"),
        (f"{_SUM}  m = ReduceMean(h, a)  y = Mul(h, m)", "2, 3", "for others"),
    ],
)
def test_a_mean_is_left(freeze: Freeze, body: str, axes: str, reason: str) -> None:
    text = f"a = Constant<value_ints=[{axes}]>()  {body}"
    assert_refuses(mean_in_blocks, _model(freeze, text, out="(float[1,A,B,C] y)"), reason)
