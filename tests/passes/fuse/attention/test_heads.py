# SPDX-License-Identifier: Apache-2.0
"""Transposed keys as torch's dynamo exporter spells them, and heads that queries share.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.attention.heads import swap_last_axes
from burnish.testing import assert_refuses, assert_rewrites, parse
from tests.passes.fuse.attention.conftest import Freeze, fused

# The shape of the keys in three axes, and of the result in four.
SHAPES = (
    "s = Shape(x) l = Slice(s, two, three) h = Slice(s, zero, two) a = Concat<axis=0>(m, l, d)"
    " b = Concat<axis=0>(h, d, l)"
)
CONSTANTS = (
    "<int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] m = {-1},"
    " int64[1] d = {8}>"
)
BODY = "r = Reshape(x, a) t = Transpose<perm=[0,2,1]>(r) y = Reshape(t, b)"
KEYS = "g (float[N,4,T,8] x) => (float[N,4,8,T] y)"


def test_swap_last_axes() -> None:
    before = parse(f"{KEYS} {CONSTANTS} {{ {SHAPES} {BODY} }}")
    after = parse(KEYS + "{ y = Transpose<perm=[0,1,3,2]>(x) }")
    assert_rewrites(swap_last_axes, before, after)


def test_one_size_may_be_what_is_left() -> None:
    constants = "<int64[3] a = {-1, 5, 8}, int64[4] b = {-1, 4, 8, 5}>"
    signature = "g (float[N,4,5,8] x) => (float[N,4,8,5] y)"
    before = parse(f"{signature} {constants} {{ {BODY} }}")
    after = parse(signature + "{ y = Transpose<perm=[0,1,3,2]>(x) }")
    assert_rewrites(swap_last_axes, before, after)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("-1, 8, 5", "-1, 4, 5, 8", "does not keep the last two axes"),
        ("-1, 5, 8", "-1, 2, 8, 5", "does not restore the leading axes"),
        ("-1, 5, 8", "4, -1, 8, 5", "does not restore the leading axes"),
    ],
)
def test_other_reshapes_are_refused(a: str, b: str, reason: str) -> None:
    dims = [dim.strip() for dim in b.split(",")]
    result = ",".join("M" if dim == "-1" else dim for dim in dims)
    model = parse(
        f"g (float[N,4,5,8] x) => (float[{result}] y) <int64[3] a = {{{a}}}, int64[4] b = {{{b}}}>"
        f"{{ {BODY} }}"
    )
    assert_refuses(swap_last_axes, model, reason)


REPEATED = {
    "expand": "u{0} = Unsqueeze(x{0}, two) e{0} = Expand(u{0}, many) r{0} = Reshape(e{0}, joined)",
    "tile": "u{0} = Unsqueeze(x{0}, two) e{0} = Tile(u{0}, times) r{0} = Reshape(e{0}, joined)",
    "gather": "r{0} = Gather<axis=1>(x{0}, runs)",
    "tile one": "r{0} = Tile(x{0}, once)",
    "expand one": "r{0} = Expand(x{0}, joined)",
    "concat one": "r{0} = Concat<axis=1>(x{0}, x{0}, x{0}, x{0})",
}
NOT_REPEATED = {
    "in turns": "r{0} = Tile(x{0}, once)",
    "in turns by concat": "r{0} = Concat<axis=1>(x{0}, x{0})",
    "in turns by gather": "r{0} = Gather<axis=1>(x{0}, turns)",
}


def repeated(freeze: Freeze, heads: int, spelling: str) -> ir.Model:
    """Attention of 4 heads of queries, whose keys and values are repeated."""
    times = 4 // heads
    return freeze(
        f"g (float[2,4,2,8] xq, float[2,{heads},3,8] xk, float[2,{heads},3,8] xv, int64[1] two,"
        " int64[5] many, int64[5] times, int64[4] joined, int64[4] once, int64[4] runs,"
        f" int64[4] turns) => (float[2,4,2,8] y) {{ {spelling.format('k')} {spelling.format('v')}"
        " t = Transpose<perm=[0,1,3,2]>(rk) s = MatMul(xq, t) p = Softmax(s) y = MatMul(p, rv) }",
        opset=23,
        two=2,
        many=np.array([2, heads, times, 3, 8]),
        times=np.array([1, 1, times, 1, 1]),
        joined=np.array([2, 4, 3, 8]),
        once=np.array([1, times, 1, 1]),
        runs=np.repeat(np.arange(heads), times),
        turns=np.tile(np.arange(heads), times),
    )


@pytest.mark.parametrize(
    ("heads", "spelling"),
    [
        *((heads, name) for name in ("expand", "tile", "gather") for heads in (1, 2)),
        *((1, name) for name in ("tile one", "expand one", "concat one")),
    ],
)
def test_heads_of_keys_that_several_queries_share(
    freeze: Freeze, heads: int, spelling: str
) -> None:
    model = repeated(freeze, heads, REPEATED[spelling])
    assert fused(model) == ["Attention"]


@pytest.mark.parametrize("spelling", NOT_REPEATED)
def test_heads_of_keys_in_turns_stay_repeated(freeze: Freeze, spelling: str) -> None:
    """Queries 0 and 2 share a head here, not 0 and 1."""
    operators = fused(repeated(freeze, 2, NOT_REPEATED[spelling]))
    assert "Attention" in operators
    assert len(operators) == 3
