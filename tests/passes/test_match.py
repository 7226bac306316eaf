# SPDX-License-Identifier: Apache-2.0
"""What the matcher must recognise, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.match import Furthest, Match, attribute_of, match_at
from burnish.passes.pattern import const, optional, trace, variadic
from burnish.testing import parse

_SIGNATURE = "(float[2,3] x, float[2,3] z) => (float[2,3] y)"


def find(
    pattern_function: Callable[..., Any], body: str, root: str = "y", signature: str = _SIGNATURE
) -> tuple[dict[str, Any] | None, Furthest]:
    """Match a pattern at the node that makes value `root`."""
    model = parse(f"g {signature} {body}")
    return find_in(pattern_function, model, root)


def find_in(
    pattern_function: Callable[..., Any], model: ir.Model, root: str
) -> tuple[dict[str, Any] | None, Furthest]:
    node = next(
        node for node in model.graph.all_nodes() if root in [value.name for value in node.outputs]
    )
    pattern, near = trace(pattern_function), Furthest()
    match: Match | None = match_at(pattern, node, model.opset_imports[""], near)
    return (None if match is None else match.bindings(pattern)), near


def test_variables_are_bound_by_name() -> None:
    found, _ = find(lambda op, a, b: op.Sub(op.Relu(a), b), "{ t = Relu(x)  y = Sub(t, z) }")
    assert found is not None
    assert (found["a"].name, found["b"].name) == ("x", "z")


def test_commutative_operators_match_either_way_round() -> None:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        return op.Add(op.Relu(a), op.Sigmoid(b))

    for order in ("p, q", "q, p"):
        found, _ = find(pattern, f"{{ p = Relu(x)  q = Sigmoid(z)  y = Add({order}) }}")
        assert found is not None
        assert (found["a"].name, found["b"].name) == ("x", "z")


def test_other_operators_do_not_commute() -> None:
    found, near = find(lambda op, a, b: op.Sub(op.Relu(a), b), "{ t = Relu(x)  y = Sub(z, t) }")
    assert found is None
    assert near.reason == "an input of Sub is not computed by a node"


def test_each_of_several_operators_commutes_if_it_does() -> None:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        return op.one_of("Add", "Sub")(op.Relu(a), b)

    assert find(pattern, "{ t = Relu(x)  y = Add(z, t) }")[0] is not None
    assert find(pattern, "{ t = Relu(x)  y = Sub(t, z) }")[0] is not None
    assert find(pattern, "{ t = Relu(x)  y = Sub(z, t) }")[0] is None


def test_backtracking_over_nested_commuted_operators() -> None:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        return op.Mul(op.Add(a, b), op.Add(a, 1.0))

    body = "{ one = Constant<value_float = 1.0>() p = Add(one, x) q = Add(z, x) y = Mul(p, q) }"
    found, _ = find(pattern, body)
    assert found is not None
    assert (found["a"].name, found["b"].name) == ("x", "z")


def test_the_same_variable_must_be_the_same_value() -> None:
    found, near = find(lambda op, a: op.Mul(a, op.Sigmoid(a)), "{ t = Sigmoid(z)  y = Mul(x, t) }")
    assert found is None
    assert near.reason == "a stands for two different values"
    found, _ = find(lambda op, a: op.Mul(a, op.Sigmoid(a)), "{ t = Sigmoid(x)  y = Mul(x, t) }")
    assert found is not None


@pytest.mark.parametrize(
    ("stored", "wanted", "matches"),
    [(1.4142135, 2**0.5, True), (1.414, 2**0.5, False), (0.0, 0.0, True), (1e-9, 0.0, False)],
)
def test_numbers_match_within_rounding(stored: float, wanted: float, matches: bool) -> None:
    body = f"{{ c = Constant<value_float = {stored!r}>() y = Div(x, c) }}"
    found, _ = find(lambda op, a: op.Div(a, wanted), body)
    assert (found is not None) == matches


def test_constants_are_seen_behind_views() -> None:
    body = """{
        c = Constant<value = double[1,1] {2.0}>()
        i = Identity(c)  f = Cast<to = 1>(i)
        s = Constant<value_ints = [1]>()  r = Reshape(f, s)
        y = Mul(x, r)
    }"""
    found, _ = find(lambda op, a: op.Mul(a, 2.0), body)
    assert found is not None


def test_a_constant_may_have_to_satisfy_a_predicate() -> None:
    def pattern(op: Any, a: Any, c: Any = const(lambda array: array.ndim == 1)) -> Any:
        return op.Mul(a, c)

    good = "{ c = Constant<value_floats = [1.0, 2.0, 3.0]>()  y = Mul(x, c) }"
    bad = "{ c = Constant<value_float = 2.0>()  y = Mul(x, c) }"
    found, _ = find(pattern, good)
    assert found is not None
    assert found["c"].name == "c"
    found, _ = find(pattern, bad)
    assert found is None
    found, _ = find(pattern, "{ y = Mul(x, z) }")
    assert found is None


def test_an_overridable_initializer_is_no_constant() -> None:
    model = parse("g (float[1] x, float[1] w = {2.0}) => (float[1] y) { y = Mul(x, w) }")
    found, _ = find_in(lambda op, a, c=const(): op.Mul(a, c), model, "y")
    assert found is None


def test_optional_inputs() -> None:
    def pattern(op: Any, a: Any, low: Any = optional(), high: Any = optional()) -> Any:
        return op.Clip(a, low, high)

    found, _ = find(pattern, "{ y = Clip(x) }")
    assert found is not None
    assert (found["low"], found["high"]) == (None, None)
    body = "{ h = Constant<value_float = 6.0>()  y = Clip(x, , h) }"
    found, _ = find(pattern, body)
    assert found is not None
    assert found["low"] is None
    assert found["high"].name == "h"


def test_a_missing_input_does_not_match_a_plain_variable() -> None:
    found, _ = find(lambda op, a, low, high: op.Clip(a, low, high), "{ y = Clip(x) }")
    assert found is None


def test_variadic_inputs() -> None:
    def pattern(op: Any, first: Any, rest: Any = variadic()) -> Any:
        return op.Concat(first, rest, axis=0)

    found, _ = find(pattern, "{ y = Concat<axis = 0>(x, z, x) }")
    assert found is not None
    assert [value.name for value in found["rest"]] == ["z", "x"]


def test_more_inputs_than_listed_need_leave() -> None:
    body = "{ a = Constant<value_ints = [1]>()  y = ReduceMean(x, a) }"
    assert find(lambda op, a: op.ReduceMean(a), body)[0] is None
    assert find(lambda op, a: op.ReduceMean(a, _more=True), body)[0] is not None


def test_attributes_fall_back_to_the_schema_of_the_opset() -> None:
    def pattern(op: Any, a: Any) -> Any:
        return op.Softmax(a, axis=-1)

    assert find(pattern, "{ y = Softmax(x) }")[0] is not None
    assert find(pattern, "{ y = Softmax<axis = 0>(x) }")[0] is None
    # Before opset 13 the default axis was 1.
    old = parse(
        '<ir_version: 8, opset_import: ["" : 11]> g (float[2] x) => (float[2] y) { y = Softmax(x) }'
    )
    assert find_in(pattern, old, "y")[0] is None
    assert attribute_of(next(iter(old.graph)), "axis", 11) == 1


def test_attributes_by_predicate_and_list() -> None:
    body = "{ y = Transpose<perm = [1, 0]>(x) }"
    assert find(lambda op, a: op.Transpose(a, perm=(1, 0)), body)[0] is not None
    assert find(lambda op, a: op.Transpose(a, perm=lambda p: p[0] == 1), body)[0] is not None
    assert find(lambda op, a: op.Transpose(a, perm=[0, 1]), body)[0] is None


def test_one_of_several_operators_and_bound_nodes() -> None:
    def pattern(op: Any, a: Any) -> Any:
        return op.one_of("Relu", "Sigmoid")(a, _bind="act")

    found, _ = find(pattern, "{ y = Sigmoid(x) }")
    assert found is not None
    assert found["act"].op_type == "Sigmoid"
    assert find(pattern, "{ y = Tanh(x) }")[0] is None


def test_either_of_two_patterns() -> None:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        return op.Relu(op.either(op.Add(op.Neg(a), b, _bind="add"), op.Neg(a)))

    found, _ = find(pattern, "{ n = Neg(x)  t = Add(n, z)  y = Relu(t) }")
    assert found is not None
    assert found["b"].name == "z"
    found, _ = find(pattern, "{ n = Neg(x)  y = Relu(n) }")
    assert found is not None
    assert (found["b"], found.get("add")) == (None, None)


def test_inner_values_have_no_other_user() -> None:
    def pattern(op: Any, a: Any) -> Any:
        return op.Neg(op.Relu(a))

    def shared(op: Any, a: Any) -> Any:
        return op.Neg(op.Relu(a, _shared=True))

    body = "{ r = Relu(x)  n = Neg(r)  y = Add(n, r) }"
    found, near = find(pattern, body, root="n")
    assert found is None
    assert near.reason == "the inner Relu is used elsewhere too"
    assert find(shared, body, root="n")[0] is not None
    two_outputs = "(float[2] x) => (float[2] r, float[2] y)"
    found, near = find(pattern, "{ r = Relu(x)  y = Neg(r) }", signature=two_outputs)
    assert found is None
    assert near.reason == "the inner Relu is an output of the graph"


def test_an_inner_value_may_be_used_twice_inside() -> None:
    def pattern(op: Any, a: Any) -> Any:
        d = op.Sub(a, op.ReduceMean(a, _more=True))
        return op.Div(d, op.Sqrt(op.Mul(d, d)))

    body = "{ m = ReduceMean(x)  d = Sub(x, m)  q = Mul(d, d)  s = Sqrt(q)  y = Div(d, s) }"
    assert find(pattern, body)[0] is not None


def test_several_outputs_of_one_node() -> None:
    def pattern(op: Any, a: Any) -> Any:
        left, right = op.Split(a, _outputs=2, _more=True)
        return op.Mul(left, op.Sigmoid(right))

    body = "{ l, r = Split<axis = 1, num_outputs = 2>(x)  s = Sigmoid(%s)  y = Mul(%s, s) }"
    signature = "(float[2,4] x) => (float[2,2] y)"
    assert find(pattern, body % ("r", "l"), signature=signature)[0] is not None
    assert find(pattern, body % ("l", "r"), signature=signature)[0] is None


def test_a_node_of_fewer_outputs_is_another() -> None:
    def two(op: Any, x: Any, scale: Any, bias: Any) -> Any:
        return op.LayerNormalization(x, scale, bias, _outputs=2)

    found, near = find(two, "<float[3] s = {1, 2, 3}> { y = LayerNormalization(x, s, z) }")
    assert found is None
    assert near.reason == "LayerNormalization has fewer outputs"


def test_several_outputs_that_only_share_an_input() -> None:
    def pattern(op: Any, a: Any, u: Any = const(), v: Any = const()) -> Any:
        return op.MatMul(a, u), op.MatMul(a, v)

    model = parse("""g (float[2,3] x) => (float[2,3] y, float[2,3] z)
        <float[3,3] p = {1,0,0,0,1,0,0,0,1}, float[3,3] q = {1,0,0,0,1,0,0,0,1}>
        { y = MatMul(x, p)  z = MatMul(x, q) }""")
    found, _ = find_in(pattern, model, "y")
    assert found is not None
    assert (found["u"].name, found["v"].name) == ("p", "q")


def test_other_domains() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
        "g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu(x) }"
    )
    assert find_in(lambda op, a: op.Gelu(a), model, "y")[0] is None
    assert find_in(lambda op, a: op.Gelu(a, _domain="com.microsoft"), model, "y")[0] is not None


def test_a_producer_in_an_outer_graph_is_no_inner_node() -> None:
    model = parse("""g (bool c, float[2] x) => (float[2] y) {
        r = Relu(x)
        y = If(c) <
            then_branch = a () => (float[2] n) { n = Neg(r) },
            else_branch = b () => (float[2] i) { i = Identity(x) }
        >
    }""")
    found, near = find_in(lambda op, a: op.Neg(op.Relu(a)), model, "n")
    assert found is None
    assert near.reason == "an input of Neg is computed in an outer graph"
    assert find_in(lambda op, a: op.Neg(a), model, "n")[0] is not None


def test_pattern_functions_must_return_operators() -> None:
    with pytest.raises(TypeError, match="must return one or more operators"):
        trace(lambda op, a: a)
    with pytest.raises(TypeError, match="a pattern input is"):
        trace(lambda op, a: op.Add(a, np.zeros(3)))


def test_a_choice_that_is_used_twice_is_one_value() -> None:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        choice = op.either(op.Relu(a), op.Neg(b))
        return op.Sub(op.Abs(choice), choice)

    same, _ = find(pattern, "{ t = Relu(x)  u = Abs(t)  y = Sub(u, t) }")
    assert same is not None
    two, near = find(pattern, "{ t = Relu(x)  u = Abs(t)  v = Neg(z)  y = Sub(u, v) }")
    assert two is None
    assert "two different values" in near.reason
