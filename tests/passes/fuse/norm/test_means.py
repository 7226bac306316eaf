# SPDX-License-Identifier: Apache-2.0
"""Means, sums and extremes that are taken axis by axis.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.passes.fuse.norm.means import reduce_reduce
from burnish.testing import assert_refuses, assert_rewrites, parse


def model(nodes: str) -> ir.Model:
    """Return a model whose nodes compute `y` from `x`, with axes as attributes."""
    header = '<ir_version: 8, opset_import: ["" : 13]> '
    return parse(f"{header} g (float[2,3,4] x) => (y) {{ {nodes} }}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "a = ReduceMean<axes = [1]>(x)  y = ReduceMean<axes = [-1]>(a)",
            "y = ReduceMean<axes = [1, 2], keepdims = 1>(x)",
        ),
        (  # what was axis 2 is axis 1 once that is gone
            "a = ReduceMax<axes=[1], keepdims=0>(x)  y = ReduceMax<axes=[1], keepdims=0>(a)",
            "y = ReduceMax<axes = [1, 2], keepdims = 0>(x)",
        ),
    ],
)
def test_one_does_for_both(before: str, after: str) -> None:
    assert_rewrites(reduce_reduce, model(before), model(after))


def test_sums_with_axes_as_inputs() -> None:
    constants = "int64[1] one = {1}, int64[1] two = {2}, int64[2] both = {1, 2}"
    signature = f"g (float[2,3,4] x) => (y) <{constants}> "
    before = parse(signature + "{ a = ReduceSum(x, two)  y = ReduceSum(a, one) }")
    after = parse(signature + "{ y = ReduceSum<keepdims = 1>(x, both) }")
    assert_rewrites(reduce_reduce, before, after)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = ReduceMax<axes = [1]>(x)  y = ReduceMean<axes = [2]>(a)", "not of one kind"),
        (
            "a = ReduceMin<axes = [1]>(x)  y = ReduceMin<axes = [2], keepdims = 0>(a)",
            "one keeps the axes",
        ),
        (
            "i = Cast<to = 6>(x)  a = ReduceMean<axes = [1]>(i)  b = ReduceMean<axes = [2]>(a)"
            "  y = Cast<to = 1>(b)",
            "rounded to whole numbers",
        ),
        ("a = ReduceMean<axes = [1]>(x)  y = ReduceMean(a)", "all axes"),
    ],
)
def test_refuses(nodes: str, reason: str) -> None:
    assert_refuses(reduce_reduce, model(nodes), reason)
