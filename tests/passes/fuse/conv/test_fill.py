# SPDX-License-Identifier: Apache-2.0
"""Channels are filled up to whole blocks, or the pass says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.fuse.conv.fill import FillChannels
from burnish.testing import assert_refuses, rewritten, run_pass

Freeze = Callable[..., ir.Model]

_CPU = dataclasses.replace(Target.parse("cpu"), isa=frozenset({"sse4.1", "avx2", "avx512"}))
_SMALL = dataclasses.replace(_CPU, isa=frozenset({"sse4.1", "avx2"}))
_IO = "(float[1,3,9,9] x, float[24,3,3,3] w, float[24] b, float[8,24,1,1] u, float[12,24,1,1] d"


def _model(freeze: Freeze, body: str, more: str = "", out: str = "float[1,8,H,W] y") -> ir.Model:
    return freeze(f"g {_IO}{more}) => ({out}) {{ {body} }}")


def _outputs(model: ir.Model) -> list[int | ir.SymbolicDim]:
    """The number of filters of each convolution."""
    shapes = [node.inputs[1].shape for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    return [shape[0] for shape in shapes if shape is not None]


@pytest.mark.parametrize(
    ("body", "filters"),
    [
        ("h = Conv(x, w, b)  r = Relu(h)  p = MaxPool<kernel_shape=[2,2]>(r)  y = Conv(p, u)", 32),
        ("r = Conv(x, w)  p = MaxPool<kernel_shape=[2,2]>(r)  h = Sigmoid(p)  y = Conv(h, u)", 32),
        ("y = Conv(x, w)", 24),
        ("h = Conv(x, w, b)  y = Conv(h, u)", 24),
    ],
)
def test_a_pooling_between_convolutions_gets_whole_blocks(
    freeze: Freeze, body: str, filters: int
) -> None:
    before = _model(freeze, body, out="float[1,C,H,W] y")
    after = rewritten(FillChannels(), before, target=_CPU)
    assert _outputs(after)[0] == filters


def test_a_convolution_never_reads_less_than_a_block(freeze: Freeze) -> None:
    body = "h = Conv(x, w)  r = Relu(h)  s = Conv(r, d)  t = Relu(s)  y = Conv(t, v)"
    before = _model(freeze, body, ", float[8,12,3,3] v")
    after = rewritten(FillChannels(), before, target=_CPU)
    assert _outputs(after) == [24, 16, 8]


def test_all_readers_ignore_what_is_filled(freeze: Freeze) -> None:
    body = (
        "h = Conv(x, w, b)  p = MaxPool<kernel_shape=[2,2]>(h)  y = Conv(p, u)  "
        "q = Conv<pads=[1,1,1,1]>(h, k)  z = Conv(h, u)"
    )
    out = "float[1,8,H,W] y, float[1,4,H2,W2] q, float[1,8,H3,W3] z"
    before = _model(freeze, body, ", float[4,24,3,3] k", out)
    after = rewritten(FillChannels(), before, target=_CPU)
    assert _outputs(after)[0] == 32


_POOLED = "h = Conv(x, w, b)  p = MaxPool<kernel_shape=[2,2]>(h)  "


@pytest.mark.parametrize(
    ("body", "out"),
    [
        (f"{_POOLED}s = Exp(p)  y = Conv(s, u)", "float[1,8,H,W] y"),
        (f"{_POOLED}y = Conv(p, u)", "float[1,8,H,W] y, float[1,24,H2,W2] p"),
        (f"{_POOLED}y = Conv<group=24>(p, k)", "float[1,24,H,W] y"),
        (f"{_POOLED}y = Conv(p, u)", "float[1,8,H,W] y, float[1,24,H3,W3] h"),
        (
            f"{_POOLED}y = Conv(p, u)  e = Constant<value_float=1.0>()  s = Add(e, p)",
            "float[1,8,H,W] y, float[1,24,H2,W2] s",
        ),
    ],
)
def test_refuses_where_others_would_see_it(freeze: Freeze, body: str, out: str) -> None:
    before = _model(freeze, body, ", float[24,1,1,1] k", out)
    assert_refuses(FillChannels(), before, "others than convolutions", target=_CPU)


def test_a_block_is_as_large_as_the_target_has_it(freeze: Freeze) -> None:
    model = _model(freeze, f"{_POOLED}y = Conv(p, u)")
    run_pass(FillChannels(), model, target=_SMALL)
    assert _outputs(model) == [24, 8]


def test_names_are_new_in_all_graphs(freeze: Freeze) -> None:
    """In a branch, too, weights get a name that no graph around it has."""
    body = (
        "{ taken = Neg(b) y = If(c) <"
        "then_branch = t () => (float[1,C,H,W] p) { h = Conv(x, w, b) r = Relu(h)"
        " q = MaxPool<kernel_shape=[2,2]>(r) p = Conv(q, u) },"
        "else_branch = e () => (float[1,C,H,W] n) { n = Conv(x, k) }> }"
    )
    before = freeze(
        f"g {_IO}, float[8,3,3,3] k, bool xc) => (float[1,C,H,W] y, float[24] taken) "
        + body.replace("If(c)", "If(xc)")
    )
    (taken,) = (node.outputs[0] for node in before.graph if node.op_type == "Neg")
    taken.name = "w/filled"
    after = rewritten(FillChannels(), before, target=_CPU)
    branch = next(node for node in after.graph.all_nodes() if node.op_type == "MaxPool").graph
    assert branch is not None
    assert "w/filled_1" in branch.initializers
