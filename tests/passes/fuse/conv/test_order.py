# SPDX-License-Identifier: Apache-2.0
"""Branches come before the enlarged maps that are added to them, or the pass says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32. In which order the runtime executes is read from its profile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxfile import save
from burnish.backends.preferences import Preference
from burnish.backends.profile import profile
from burnish.backends.target import Target
from burnish.passes.fuse.conv.order import PREFERENCE, OrderBranches
from burnish.testing import assert_refuses, assert_same_outputs, rewrites, run_pass

Freeze = Callable[..., ir.Model]

_HEAD = (
    "m (float[1,16,8,12] x, float[16,16,1,1] w, float[16,16,1,1] v, float[16,16,1,1] u,"
    " float[4] s) => (float[1,16,H,W] y)"
)
_TRUNK = "t = Conv(x, w)  d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)  k = Conv(d, v)"
_BRANCH = "c = Conv(t, u)  g = GlobalAveragePool(c)  e = Sigmoid(g)  b = Mul(c, e)"
_LARGE = "h = Sin(k)  r = Resize(h, , s)"


def _model(
    freeze: Freeze, branch: str = _BRANCH, large: str = _LARGE, last: str = "y = Add(b, r)"
) -> ir.Model:
    model = freeze(
        f"{_HEAD} {{ {_TRUNK}  {branch}  {large}  {last} }}", s=np.array([1.0, 1.0, 2.0, 2.0])
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def _order(model: ir.Model, folder: Path) -> list[str]:
    """Names of nodes in the order in which the runtime executes them."""
    path = folder / "m.onnx"
    save(model, path)
    times = profile(path, {"x": np.ones((1, 16, 8, 12), np.float32)}, runs=1, warmup=0)
    return [time.name for time in times]


@pytest.mark.parametrize("last", ["y = Add(b, r)", "y = Add(r, b)", "y = Sum(b, r)"])
def test_the_runtime_computes_the_branch_first(freeze: Freeze, tmp_path: Path, last: str) -> None:
    before = _model(freeze, last=last)
    after = before.clone()
    assert rewrites(run_pass(OrderBranches(), after)) == {"branch-before-enlarged": 1}
    assert [node.name for node in after.graph] == [*"tdkhrcgeby"]
    assert_same_outputs(before, after)
    late, early = _order(before, tmp_path), _order(after, tmp_path)
    assert late.index("h") < late.index("b")
    assert early.index("b") < early.index("h")


def test_a_branch_moves_again_with_the_branch_it_is_part_of(freeze: Freeze) -> None:
    """As in HRNet, where each sum of maps of several sizes is part of the next."""
    before = _model(
        freeze,
        large=f"{_LARGE}  a = Add(b, r)  o = Neg(a)  i = Sin(d)  j = Resize(i, , s)",
        last="y = Add(o, j)",
    )
    after = before.clone()
    assert rewrites(run_pass(OrderBranches(), after)) == {"branch-before-enlarged": 2}
    assert_same_outputs(before, after)


def test_a_second_time_there_is_nothing_to_do(freeze: Freeze) -> None:
    model = _model(freeze)
    run_pass(OrderBranches(), model)
    assert not rewrites(run_pass(OrderBranches(), model))


@pytest.mark.parametrize(
    ("branch", "reason"),
    [
        ("b = Conv(t, u)", "orders what is in its layout"),
        ("c = Conv(t, u)  b = Relu(c)", "orders what is in its layout"),
        ("e = Sin(t)  b = Mul(t, e)", "no convolution"),
        (
            "c0 = Conv(t, u)  "
            + "".join(f"c{n + 1} = Sin(c{n})  " for n in range(32))
            + "b = Neg(c32)",
            "is long",
        ),
    ],
)
def test_refuses(freeze: Freeze, branch: str, reason: str) -> None:
    assert_refuses(OrderBranches(), _model(freeze, branch), reason)


@pytest.mark.parametrize(
    ("branch", "last"),
    [
        (_BRANCH, "q = Neg(b)  a = Add(b, r)  y = Add(a, q)"),  # what others read stays
        (_BRANCH, "y = Mul(b, r)"),
    ],
)
def test_leaves_other_branches_alone(freeze: Freeze, branch: str, last: str) -> None:
    model = _model(freeze, branch, last=last)
    order = [node.name for node in model.graph]
    assert not rewrites(run_pass(OrderBranches(), model))
    assert [node.name for node in model.graph] == order


def test_what_others_read_is_not_of_the_branch(freeze: Freeze) -> None:
    before = _model(
        freeze,
        large="n = Neg(c)  a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)"
        "  h = Add(k, a)  r = Resize(h, , s)",
    )
    after = before.clone()
    ctx = run_pass(OrderBranches(), after)
    assert not rewrites(ctx)
    assert_same_outputs(before, after)


def test_leaves_it_where_the_target_does_not_prefer_it(freeze: Freeze) -> None:
    target = dataclasses.replace(Target.parse("cpu"), preferences=(Preference(PREFERENCE, False),))
    assert not rewrites(run_pass(OrderBranches(), _model(freeze), target=target))
