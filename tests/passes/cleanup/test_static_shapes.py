# SPDX-License-Identifier: Apache-2.0
"""Computed shapes that are known well enough: written down where that is right for any size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.onnxruntime import session
from burnish.errors import BurnishError
from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    rewrites,
    run_pass,
)


@pytest.mark.parametrize(
    ("inputs", "nodes", "op_type", "argument"),
    [
        (  # split heads: both sizes are of the same axes before
            "float[N,S,6] x",
            "s = Shape(x)  n = Slice(s, _0, _1)  l = Slice(s, _1, _2) "
            "c = Concat<axis = 0>(n, l, _3, _2)  y = Reshape(x, c)",
            "Reshape",
            [0, 0, 3, 2],
        ),
        (  # an unknown size, and a -1 that was there before
            "float[N,S,6] x",
            "s = Shape(x)  i = Squeeze(_1)  l = Gather(s, i)  k = Unsqueeze(l, _0) "
            "t = Transpose(x)  c = Concat<axis = 0>(_3, k, minus)  y = Reshape(t, c)",
            "Reshape",
            [3, 0, -1],
        ),
        (  # one unknown size in another place
            "float[N,6] x",
            "s = Shape(x)  n = Slice(s, _0, _1)  c = Concat<axis = 0>(_3, n, _2) y = Reshape(x, c)",
            "Reshape",
            [3, -1, 2],
        ),
        (  # an axis of 1 between two unknown sizes
            "float[N,S] x, float[S] w",
            "a = Shape(x)  n = Slice(a, _0, _1)  l = Shape(w)  c = Concat<axis = 0>(n, _1, l) "
            "y = Reshape(x, c)",
            "Unsqueeze",
            [1],
        ),
        (
            "float[N,1,S] x, float[S] w",
            "a = Shape(x)  n = Slice(a, _0, _1)  l = Shape(w)  c = Concat<axis = 0>(n, l) "
            "y = Reshape(x, c)",
            "Squeeze",
            [1],
        ),
    ],
)
def test_a_computed_target_is_written_down(
    inputs: str, nodes: str, op_type: str, argument: list[int]
) -> None:
    constants = ", ".join(f"int64[1] _{number} = {{{number}}}" for number in range(4))
    before = parse(f"g ({inputs}) => (y) <{constants}, int64[1] minus = {{-1}}> {{ {nodes} }}")
    original = before.clone()
    run_pass("static-shapes", before)
    node = before.graph.outputs[0].producer()
    assert node is not None
    assert node.op_type == op_type
    target = node.inputs[1]
    assert target is not None
    assert target.const_value is not None
    assert target.const_value.numpy().tolist() == argument
    for rows, columns in ((2, 3), (1, 1), (0, 3)):
        feeds = {}
        for value in original.graph.inputs:
            assert value.shape is not None
            sizes = {"N": rows, "S": columns}
            dims = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
            feeds[value.name or ""] = np.ones(dims, np.float32)
        if rows == 0 and argument == [3, -1, 2]:
            with pytest.raises(BurnishError), session(original) as running:
                running.run(feeds)  # a computed 0 means 'copy' too: it never worked
        else:
            assert_same_outputs(original, before, feeds=feeds)


def test_an_empty_batch_speaks_against_a_guess() -> None:
    """[N, S * 6] has one computed size left; a -1 for it would fail where N is 0."""
    before = parse(
        "g (float[N,S,6] x) => (y) <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, "
        "int64[1] six = {6}> { s = Shape(x)  n = Slice(s, z, o)  l = Slice(s, o, t) "
        "m = Mul(l, six)  c = Concat<axis = 0>(n, m)  y = Reshape(x, c) }"
    )
    assert_refuses("static-shapes", before, "too many sizes are unknown")


def test_an_expand_to_the_shape_there_is_goes() -> None:
    # As exporters spell it: sizes of -1 stand for 1.
    before = parse(
        "g (float[N,4] x) => (y) <int64[1] z = {0}, int64[1] o = {1}, int64[1] minus = {-1}, "
        "int64[2] ones = {1, 1}> { s = Shape(x)  n = Slice(s, z, o) "
        "c = Concat<axis = 0>(n, minus)  e = Equal(c, minus)  w = Where(e, ones, c) "
        "a = Expand(x, w)  y = Neg(a) }"
    )
    after = parse("g (float[N,4] x) => (y) { y = Neg(x) }")
    assert_rewrites("static-shapes", before, after)


def test_an_expand_to_another_size_stays() -> None:
    before = parse(
        "g (float[N,4] x, float[M,4] z) => (y) { s = Shape(z)  a = Expand(x, s)  y = Neg(a) }"
    )
    assert_refuses("static-shapes", before, "the shape may change")


SWAP = (
    "g (float[N,12,S,32] x) => (y) <{targets}> {{ s = Shape(x)  n = Gather(s, i0) "
    "l = Gather(s, i2)  t = Concat<axis = 0>({there})  a = Reshape(x, t) "
    "b = Transpose<perm = [0, 2, 1]>(a)  u = Concat<axis = 0>({back})  y = Reshape(b, u) }}"
)
TARGETS = (
    "int64[1] i0 = {0}, int64[1] i2 = {2}, int64[1] m = {-1}, int64[1] c12 = {12}, "
    "int64[1] c32 = {32}, int64[1] c4 = {4}, int64[1] c3 = {3}"
)


def test_swapping_the_last_axes_by_a_detour_is_a_transpose() -> None:
    before = parse(SWAP.format(targets=TARGETS, there="m, l, c32", back="n, c12, c32, l"))
    after = parse("g (float[N,12,S,32] x) => (y) { y = Transpose<perm = [0, 1, 3, 2]>(x) }")
    assert_rewrites("static-shapes", before, after, feeds={"x": np.ones((2, 12, 5, 32), "f4")})


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("m, l, c32", "n, c4, c3, m"),  # splits into something else
        ("m, c32, l", "n, c12, c32, l"),  # merges something else
    ],
)
def test_a_detour_that_leads_elsewhere_stays(there: str, back: str) -> None:
    before = parse(SWAP.format(targets=TARGETS, there=there, back=back))
    assert "batched-transpose" not in rewrites(run_pass("static-shapes", before))


def test_in_functions_targets_become_constant_nodes() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N,4] x) => (y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]> f (x) => (y) {
            zero = Constant<value = int64[1] {0}>()  one = Constant<value = int64[1] {1}>()
            two = Constant<value_ints = [2, 2]>()
            s = Shape(x)  n = Slice(s, zero, one)  t = Concat<axis = 0>(n, two)  y = Reshape(x, t)
        }"""
    )
    original = before.clone()
    function = next(iter(before.functions.values()))
    # The rank of a function's input is not known, but that of what is inside may be.
    function.inputs[0].shape = ir.Shape(["N", 4])
    run_pass("static-shapes,dead-code", before)
    assert [node.op_type for node in function] == ["Constant", "Reshape"]
    assert_same_outputs(original, before, feeds={"x": np.ones((3, 4), "f4")})


def test_a_scalar_that_gets_two_axes_is_no_vector() -> None:
    """Of [[N], [M]], a Gather along the second axis takes both sizes."""
    model = parse(
        """g (float[N,M] x) => (float[K,L] y) <int64[2] both = {0, 1}, int64 first = {0},
        int64 second = {1}, int64[1] one = {1}, int64[1] flat = {-1}> {
        s = Shape(x)
        n = Gather(s, first) m = Gather(s, second)
        a = Unsqueeze(n, both) b = Unsqueeze(m, both)
        c = Concat<axis = 0>(a, b)
        d = Gather<axis = 1>(c, first)
        e = Reshape(d, flat)
        y = Reshape(x, e) }"""
    )
    original = model.clone()
    run_pass("static-shapes", model)
    assert_same_outputs(original, model)
