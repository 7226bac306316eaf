# SPDX-License-Identifier: Apache-2.0
"""Sizes asked of the graph's inputs, and of what lies before a Transpose or an Attention."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.sizes import (
    size_before_attention,
    size_before_transpose,
    size_of_input,
    size_or_one,
    size_times_over,
)
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'


@pytest.mark.parametrize(
    "body",
    [
        "<int64 i = {1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }",
        "<int64 i = {-1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }",
    ],
)
def test_size_of_input(body: str) -> None:
    signature = "g (float[N,S] x) => (int64 y)"
    after = parse(signature + "<int64 i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, parse(signature + body), after)


def test_a_slice_of_one_size() -> None:
    signature = "g (float[N,S] x) => (int64[1] y)"
    before = "<int64[1] i = {-1}, int64[1] e = {9223372036854775807}>"
    before += "{ a = Abs(x) s = Shape(a) y = Slice(s, i, e) }"
    after = parse(signature + "<int64[1] i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, parse(signature + before), after)


def test_a_size_that_is_known_is_a_constant() -> None:
    signature = "g (float[N,3] x) => (int64 y)"
    before = parse(signature + "<int64 i = {1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }")
    after = parse(signature + "<int64 three = {3}> { y = Identity(three) }")
    assert_rewrites(size_of_input, before, after)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<int64[2] i = {0, 1}> { a = Abs(x) s = Shape(a) y = Gather(s, i) }", "not one size"),
        ("<int64[1] i = {0}> { s = Shape(x) y = Gather(s, i) }", "it is an input already"),
        (
            "<int64[1] i = {0}> { a = NonZero(x) t = Transpose(a) s = Shape(t) y = Gather(s, i) }",
            "no input has an axis of that name",
        ),
    ],
)
def test_other_sizes_stay(body: str, reason: str) -> None:
    assert_refuses(size_of_input, parse("g (float[N,S] x) => (int64[K] y)" + body), reason)


def test_size_before_transpose() -> None:
    signature = "g (float[N,S,T] x) => (int64 y, float[T,N,S] t)"
    before = "<int64 i = {0}> { t = Transpose<perm=[2,0,1]>(x) s = Shape(t) y = Gather(s, i) }"
    after = "<int64 i = {2}> { t = Transpose<perm=[2,0,1]>(x) s = Shape(x) y = Gather(s, i) }"
    assert_rewrites(size_before_transpose, parse(signature + before), parse(signature + after))


def test_two_sizes_before_transpose_stay() -> None:
    body = "<int64[2] i = {0, 1}> { t = Transpose<perm=[1,0]>(x) s = Shape(t) y = Gather(s, i) }"
    model = parse("g (float[N,S] x) => (int64[2] y)" + body)
    assert_refuses(size_before_transpose, model, "not one size")


@pytest.mark.parametrize(("axis", "source", "where"), [(2, "q", 2), (-1, "v", 3)])
def test_size_before_attention(axis: int, source: str, where: int) -> None:
    signature = (
        HEADER + "g (float[N,4,S,8] q, float[N,4,T,8] k, float[N,4,T,6] v)"
        " => (int64 y, float[N,4,S,6] a)"
    )
    body = "<int64 i = {%d}> { a = Attention(q, k, v) s = Shape(%s) y = Gather(s, i) }"
    before, after = parse(signature + body % (axis, "a")), parse(signature + body % (where, source))
    assert_rewrites(size_before_attention, before, after)


def test_sizes_of_an_attention_on_three_axes_stay() -> None:
    model = parse(
        HEADER + "g (float[N,S,8] q, float[N,T,8] k, float[N,T,8] v) => (int64 y) <int64 i = {1}>"
        "{ a = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v) s = Shape(a) y = Gather(s, i) }"
    )
    assert_refuses(size_before_attention, model, "not one size of four")


def test_a_size_that_is_a_sum() -> None:
    signature = HEADER + "g (float[N,P] p, float[N,S] x) => (int64 y)"
    before = parse(
        signature + "<int64 i = {1}> { a = Concat<axis=1>(p, x) s = Shape(a) y = Gather(s, i) }"
    )
    after = parse(
        signature + "<int64 i = {1}> { s = Shape(p) a = Gather(s, i) t = Shape(x)"
        " b = Gather(t, i) y = Add(a, b) }"
    )
    assert_rewrites(size_of_input, before, after)


def test_a_size_that_is_a_product() -> None:
    constants = "<int64 i = {0}, int64[2] m = {-1, 6}, int64 four = {4}>"
    before = parse(
        HEADER
        + "g (float[N,4,6] x) => (int64 y)"
        + constants
        + "{ a = Reshape(x, m) s = Shape(a) y = Gather(s, i) }"
    )
    after = parse(
        HEADER
        + "g (float[N,4,6] x) => (int64 y)"
        + constants
        + "{ s = Shape(x) a = Gather(s, i) y = Mul(a, four) }"
    )
    assert_rewrites(size_of_input, before, after)


def test_the_shape_of_one_axis() -> None:
    signature = HEADER + "g (float[N,S] x) => (int64[1] y)"
    before = parse(signature + "{ a = Abs(x) y = Shape<start=1, end=2>(a) }")
    after = parse(signature + "<int64[1] i = {1}> { s = Shape(x) y = Gather(s, i) }")
    assert_rewrites(size_of_input, before, after)


# --- sizes or 1 --------------------------------------------------------------------------------

TARGET = (
    "g (float[N,S] x, float[1,1,1] z) => (float[N,C,S] y) <int64[1] minus = {-1},"
    " int64[3] minuses = {-1, -1, -1}, int64[3] ones = {1, 1, 1}, int64[1] one = {1},"
    " bool[3] which = {0, 1, 0}, int64[1] first = {0}, int64[1] second = {1}> { s = Shape(x)"
    " n = Gather(s, first) l = Gather(s, second) c = Concat<axis=0>(%s) %s y = Expand(z, w) }"
)


@pytest.mark.parametrize(
    "choice",
    ["e = Equal(c, minuses) w = Where(e, ones, c)", "w = Where(which, ones, c)"],
    ids=["computed", "folded"],
)
def test_size_or_one(choice: str) -> None:
    before = parse(HEADER + TARGET % ("n, minus, l", choice))
    after = parse(HEADER + TARGET % ("n, one, l", "w = Identity(c)"))
    run_pass("cleanup", after)
    original = before.clone()
    run_pass(size_or_one, before)
    run_pass("cleanup", before)
    assert "Where" not in [node.op_type for node in before.graph]
    assert_same_outputs(original, before)


@pytest.mark.parametrize(
    ("parts", "choice", "reason"),
    [
        ("d, minus, l", "e = Equal(c, minuses) w = Where(e, ones, c)", "a size might be -1"),
        ("n, minus, l", "e = Equal(c, ones) w = Where(e, ones, c)", "not where a size is -1"),
        (
            "n, minus, l",
            "e = Equal(c, minuses) w = Where(e, minuses, c)",
            "what is chosen is not 1",
        ),
    ],
    ids=["difference", "other", "not 1"],
)
def test_other_choices_stay(parts: str, choice: str, reason: str) -> None:
    text = (TARGET % (parts, choice)).replace("c = Concat", "d = Sub(n, l) c = Concat")
    assert_refuses(size_or_one, parse(HEADER + text), reason)


def test_size_times_over() -> None:
    signature = HEADER + "g (int64 n) => (int64 y) <int64 four = {4}, int64 two = {2}>"
    before = parse(signature + "{ m = Mul(n, four) y = Div(m, four) }")
    assert_rewrites(size_times_over, before, parse(signature + "{ y = Identity(n) }"))
    other = parse(signature + "{ m = Mul(n, four) y = Div(m, two) }")
    assert_refuses(size_times_over, other, "multiplied and divided by different numbers")
    real = parse(
        HEADER + "g (float n) => (float y) <float c = {3}> { m = Mul(n, c) y = Div(m, c) }"
    )
    assert_refuses(size_times_over, real, "not whole numbers")


def test_a_size_times_over_may_be_a_vector() -> None:
    signature = HEADER + "g (int64[1] n, int64 m) => (int64[1] y) <int64 a = {4}, int64[1] b = {4}>"
    before = parse(signature + "{ t = Mul(n, b) y = Div(t, a) }")
    assert_rewrites(size_times_over, before, parse(signature + "{ y = Identity(n) }"))
    wider = parse(signature + "{ t = Mul(m, b) y = Div(t, a) }")
    assert_refuses(size_times_over, wider, "the number has more axes")


CHUNK = HEADER + "g (float[N,S] x) => (int64 y) <int64 i = {1}, int64 n = {3}, int64 two = {%d}> "


def test_the_size_of_a_chunk() -> None:
    """As TorchScript spells that of torch.chunk: rounded up."""
    body = "s = Shape(x) k = Gather(s, i)"
    before = parse(CHUNK % 2 + f"{{ {body} m = Mul(k, n) a = Add(m, two) y = Div(a, n) }}")
    assert_rewrites(size_times_over, before, parse(CHUNK % 2 + f"{{ {body} y = Identity(k) }}"))


@pytest.mark.parametrize(
    ("rest", "size"), [(3, "Gather(s, i)"), (-1, "Gather(s, i)"), (2, "ReduceMin<keepdims=0>(j)")]
)
def test_what_is_more_than_a_chunk(rest: int, size: str) -> None:
    body = f"s = Shape(x) j = Sub(s, n) k = {size} m = Mul(k, n) a = Add(m, two) y = Div(a, n)"
    model = parse(CHUNK % rest + f"{{ {body} }}")
    assert_refuses(size_times_over, model, "what is added is not less than a part")


# --- known-sizes -------------------------------------------------------------------------------


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
