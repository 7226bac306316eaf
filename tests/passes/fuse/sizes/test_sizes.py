# SPDX-License-Identifier: Apache-2.0
"""Sizes made known in whole models, while one makes another known."""

from __future__ import annotations

from burnish.testing import assert_same_outputs, parse, run_pass
from tests.passes.fuse.sizes.conftest import HEADER


def test_known_sizes_makes_shapes_known_and_keeps_what_outputs_are_called() -> None:
    body = (
        "s = Shape(x) n = Gather(s, first) l = Gather(s, second) c = Concat<axis=0>(n, minus, l)"
        " k = Shape(c) o = ConstantOfShape<value = int64[1] {1}>(k) m = Mul(o, minus)"
        " e = Equal(c, m) w = Where(e, o, c) b = Expand(z, w) p = Softmax(b) y = MatMul(p, v)"
    )
    model = parse(
        HEADER + "g (float[N,S] x, float[1,1,1] z, float[N,S,4] v) => (float[M,C,4] y)"
        " <int64[1] minus = {-1}, int64[1] first = {0}, int64[1] second = {1}>"
        f" {{ {body} }}"
    )
    original = model.clone()
    run_pass("known-sizes", model)
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    assert str(softmax.outputs[0].shape) == "[N,1,S]"
    assert str(model.graph.outputs[0].shape) == "[M,1,4]"  # M, though it is N
    assert_same_outputs(original, model)


def test_known_sizes_goes_on_while_one_size_makes_another_known() -> None:
    """What is filled up is as long as x once the sizes it is filled up to are known."""
    body = (
        "p = Abs(x) s = Shape(p) n = Gather(s, first) l = Gather(s, second)"
        " e = Concat<axis=0>(n, l) r = Expand(one, e) b = Shape(r) c = Gather(b, second)"
        " d = Sub(c, l) w = Concat<axis=0>(pads, d) q = Pad(p, w) y = Relu(q)"
    )
    model = parse(
        HEADER + "g (float[N,S] x) => (float[N,T] y) <float[1,1] one = {1}, int64[1] first = {0},"
        f" int64[1] second = {{1}}, int64[3] pads = {{0, 1, 0}}> {{ {body} }}"
    )
    original = model.clone()
    run_pass("known-sizes", model)
    done = [node.op_type for node in model.graph]
    assert done == ["Abs", "Shape", "Gather", "Sub", "Concat", "Pad", "Relu"]
    assert_same_outputs(original, model)


def test_known_sizes_is_for_models_that_ask_for_sizes_of_what_they_compute() -> None:
    text = HEADER + "g (float[N,S] x) => (int64 y) <int64 i = {1}>"
    asked = parse(text + "{ a = Abs(x) s = Shape(a) y = Gather(s, i) }")
    run_pass("known-sizes", asked)
    assert [node.op_type for node in asked.graph] == ["Shape", "Gather"]
    given = parse(text + "{ z = Add(i, i) s = Shape(x) y = Gather(s, i) }")
    run_pass("known-sizes", given)
    assert [node.op_type for node in given.graph] == ["Add", "Shape", "Gather"]
