# SPDX-License-Identifier: Apache-2.0
"""Residuals enter the blocked layout once, or the pass says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32. That the runtime then adds in the convolution is read from its optimized graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.census import census
from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.conv.residual import PREFERENCE, BlockResiduals
from burnish.testing import assert_refuses, assert_same_outputs, refusals, rewrites, run_pass

Freeze = Callable[..., ir.Model]

_HEAD = (
    "m (float[1,32,H,W] x, float[1,32,1,1] s, float[64,32,1,1] w, float[32,64,1,1] v,"
    " float[32,1,3,3] d, float[16,32,1,1] l) => (float[1,16,H,W] y)"
)
_DEPTH = "Conv<group = 32, pads = [1, 1, 1, 1]>"
_BRANCH = f"p = {_DEPTH}(g, d)  q = Conv(p, w)  r = Gelu(q)  c = Conv(r, v)"
_LAST = "t = Add(g, c)  y = Conv(t, l)"


def _model(
    freeze: Freeze,
    first: str = "g = Mul(x, s)",
    branch: str = _BRANCH,
    last: str = _LAST,
    head: str = _HEAD,
) -> ir.Model:
    return freeze(f"{head} {{ {first}  {branch}  {last} }}")


@pytest.mark.parametrize(
    ("branch", "last"),
    [
        (_BRANCH, _LAST),
        (_BRANCH, "t = Add(c, g)  y = Conv(t, l)"),
        (f"c = {_DEPTH}(g, d)", _LAST),
        ("c = Conv<auto_pad = 'SAME_UPPER', group = 32>(g, d)".replace("'", '"'), _LAST),
        (_BRANCH, "t = Add(g, c)  z = Conv(t, l)  u = Conv(g, l)  y = Sub(z, u)"),
    ],
)
def test_the_residual_enters_once(freeze: Freeze, branch: str, last: str) -> None:
    before = _model(freeze, branch=branch, last=last)
    after = before.clone()
    run_pass(BlockResiduals(), after)
    (pool,) = (node for node in after.graph if node.op_type == "MaxPool")
    assert pool.inputs[0] is not None
    assert [user.op_type for user in pool.inputs[0].consumers()] == ["MaxPool"]
    assert_same_outputs(before, after)
    cpu = Target.parse("cpu")
    if "avx512" in cpu.isa:
        assert "Add" in census(before, cpu).executed.ops
        assert "Add" not in census(after, cpu).executed.ops


_WIDE = _HEAD.replace("float[1,16,H,W] y", "float[1,32,H,W] y")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"first": "g = Relu(x)"}, "in the layout already"),
        ({"first": "g = Mul(x, x)"}, "in the layout already"),
        ({"last": "t = Add(g, c)  y = Sin(t)", "head": _WIDE}, "no convolution follows"),
        ({"last": "y = Add(g, c)", "head": _WIDE}, "no convolution follows"),
        (
            {"head": _HEAD.replace("32", "20"), "branch": _BRANCH.replace("32", "20")},
            "no whole blocks",
        ),
    ],
)
def test_refuses(freeze: Freeze, given: dict[str, str], reason: str) -> None:
    model = _model(freeze, **given)
    ctx = run_pass(BlockResiduals(), model)
    assert "MaxPool" not in [node.op_type for node in model.graph]
    assert any(reason in said for said in refusals(ctx)["blocked-residual"])


@pytest.mark.parametrize(
    "branch",
    [
        f"p = {_DEPTH}(g, d)  q = Conv(p, w)  r = Conv(q, v)  c = Relu(r)",
        f"p = {_DEPTH}(x, d)  q = Conv(p, w)  c = Conv(q, v)",
        f"p = {_DEPTH}(g, d)  q = Sin(p)  n = Conv(q, w)  c = Conv(n, v)",
        "p = Conv<group = 32, pads = [2, 2, 2, 2]>(g, d)"
        "  q = Conv<group = 32>(p, d)  n = Conv(q, w)  c = Conv(n, v)",
    ],
)
def test_leaves_other_sums_alone(freeze: Freeze, branch: str) -> None:
    model = _model(freeze, branch=branch)
    ctx = run_pass(BlockResiduals(), model)
    assert "MaxPool" not in [node.op_type for node in model.graph]
    assert not refusals(ctx)


def test_leaves_it_where_the_target_does_not_prefer_it(freeze: Freeze) -> None:
    target = dataclasses.replace(Target.parse("cpu"), preferences=(Preference(PREFERENCE, False),))
    model = _model(freeze)
    run_pass(BlockResiduals(), model, target=target)
    assert "MaxPool" not in [node.op_type for node in model.graph]


def test_a_residual_of_another_graph_stays(freeze: Freeze) -> None:
    model = freeze(
        "m (float[1,32,4,4] x, bool x1, float[1,32,1,1] s, float[32,32,1,1] w, float[16,32,1,1] l)"
        " => (float[1,16,4,4] y) { g = Mul(x, s)  y = If(x1) <"
        "then_branch = a () => (float[1,16,4,4] o) { c = Conv(g, w)  t = Add(g, c)  o = Conv(t, l)"
        " }, else_branch = b () => (float[1,16,4,4] q) { q = Conv(g, l) }> }"
    )
    assert_refuses(BlockResiduals(), model, "not known to be outside")


def test_names_in_an_if_are_new_around_it_too(freeze: Freeze) -> None:
    before = freeze(
        "m (float[1,32,4,4] x, bool x1, float[1,32,1,1] s, float[32,32,1,1] w, float[16,32,1,1] l)"
        " => (float[1,16,4,4] y) { g_in_blocks = Neg(x)  y = If(x1) <"
        "then_branch = a () => (float[1,16,4,4] o)"
        " { g = Mul(g_in_blocks, s)  c = Conv(g, w)  t = Add(g, c)  o = Conv(t, l) },"
        " else_branch = b () => (float[1,16,4,4] q) { q = Conv(g_in_blocks, l) }> }"
    )
    after = before.clone()
    assert rewrites(run_pass(BlockResiduals(), after)) == {"blocked-residual": 1}
    assert_same_outputs(before, after)
