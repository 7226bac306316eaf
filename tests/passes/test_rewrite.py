# SPDX-License-Identifier: Apache-2.0
"""The rewrite driver: where it goes, what it keeps, and control over each rewrite."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes import rewrite
from burnish.passes.context import PassContext
from burnish.passes.pattern import const, variadic
from burnish.passes.rule import NoMatch, Rule, pass_of, rule
from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    refusals,
    rewrites,
    run_pass,
)


@rule
def matmul_add_to_gemm(op: Any, x: Any, w: Any, b: Any) -> Any:
    """Add(MatMul(x, w), b) -> Gemm(x, w, b)."""
    return op.Add(op.MatMul(x, w), b)


@matmul_add_to_gemm.rewrite
def _(op: Any, x: Any, w: Any, b: Any) -> Any:
    if x.rank != 2 or w.rank != 2:
        return NoMatch("x and w must have rank 2")
    return op.Gemm(x, w, b)


@rule
def double_neg(op: Any, x: Any) -> Any:
    """Neg(Neg(x)) -> x."""
    return op.Neg(op.Neg(x))


@double_neg.rewrite
def _(op: Any, x: Any) -> Any:
    return x


@rule
def add_chain(op: Any, x: Any, a: Any = const(), b: Any = const()) -> Any:
    """Add(Add(x, a), b) -> Add(x, a + b)."""
    return op.Add(op.Add(x, a), b)


@add_chain.rewrite
def _(op: Any, x: Any, a: Any, b: Any) -> Any:
    return op.Add(x, a.array + b.array)


def test_fires() -> None:
    before = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) "
        "{ t = MatMul(x, w)  y = Add(b, t) }"
    )
    after = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) { y = Gemm(x, w, b) }"
    )
    assert_rewrites(matmul_add_to_gemm, before, after)


def test_refuses_with_its_reason() -> None:
    before = parse(
        "g (float[N,2,4] x, float[4,3] w, float[3] b) => (float[N,2,3] y) "
        "{ t = MatMul(x, w)  y = Add(t, b) }"
    )
    assert_refuses(matmul_add_to_gemm, before, "x and w must have rank 2")


def test_a_refused_replacement_leaves_no_users_behind() -> None:
    @rule
    def refuse_late(op: Any, x: Any) -> Any:
        return op.Neg(x)

    @refuse_late.rewrite
    def _(op: Any, x: Any) -> Any:
        op.Relu(op.Abs(x))
        return NoMatch("changed my mind")

    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    run_pass(refuse_late, model)
    assert len(model.graph.inputs[0].uses()) == 1


def test_what_the_target_cannot_run_is_refused() -> None:
    @rule
    def to_nonsense(op: Any, x: Any) -> Any:
        return op.Neg(x)

    @to_nonsense.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Nonsense(x, _domain="com.microsoft")

    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert_refuses(to_nonsense, model, "target cpu does not run Nonsense of float at opset 1")


def test_rewrites_enable_each_other_without_a_restart() -> None:
    body = "".join(f"t{i + 1} = Add(t{i}, c) " for i in range(20))
    model = parse(f"g (float[2] t0) => (float[2] y) <float c = {{1.0}}> {{ {body} y = Relu(t20) }}")
    ctx = run_pass(add_chain, model)
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]
    assert rewrites(ctx) == {"add-chain": 19}
    (added,) = model.graph.initializers.values()
    assert added.const_value is not None
    assert added.const_value.numpy() == 20


def test_graph_outputs_keep_their_names() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y, float[2] z) "
        "{ r = Relu(x)  a = Neg(r)  y = Neg(a)  b = Neg(x)  z = Neg(b) }"
    )
    run_pass(double_neg, model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    # y is renamed Relu; z equals the input, which keeps its own name, so an Identity carries it.
    assert sorted(node.op_type for node in model.graph) == ["Identity", "Relu"]


def test_one_value_for_two_outputs() -> None:
    model = parse(
        "g (float[2] x) => (float[2] r, float[2] y) { r = Relu(x)  a = Neg(r)  y = Neg(a) }"
    )
    run_pass(double_neg, model)
    assert [value.name for value in model.graph.outputs] == ["r", "y"]
    assert sorted(node.op_type for node in model.graph) == ["Identity", "Relu"]


def test_subgraphs_and_functions_are_rewritten() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (bool c, float[2] x) => (float[2] y) {
        t = If(c) <
            then_branch = a () => (float[2] n) { m = Neg(x)  k = Neg(m)  n = Relu(k) },
            else_branch = b () => (float[2] i) { i = Sigmoid(x) }
        >
        y = local.twice(t)
    }
    <opset_import: ["" : 21], domain: "local">
    twice (p) => (q) { s = Neg(p)  u = Neg(s)  q = Relu(u) }
    """)
    ctx = run_pass(double_neg, model)
    assert rewrites(ctx) == {"double-neg": 2}
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Relu"]


def test_new_constants_in_a_function_are_nodes() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.f(x) }
    <opset_import: ["" : 21], domain: "local">
    f (p) => (q) {
        a = Constant<value_float = 1.0>()  b = Constant<value_float = 2.0>()
        s = Add(p, a)  q = Add(s, b)
    }""")
    run_pass(add_chain, model)
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Add"]
    assert not function.graph.initializers


def test_a_rule_with_several_outputs() -> None:
    @rule
    def merge_matmuls(op: Any, x: Any, u: Any = const(), v: Any = const()) -> Any:
        return op.MatMul(x, u), op.MatMul(x, v)

    @merge_matmuls.rewrite
    def _(op: Any, x: Any, u: Any, v: Any) -> Any:
        widths = np.array([u.array.shape[1], v.array.shape[1]])
        both = op.MatMul(x, np.concatenate([u.array, v.array], axis=1))
        return op.Split(both, widths, axis=-1, _outputs=2)

    weights = "<float[2,2] p = {1,2,3,4}, float[2,3] q = {1,2,3,4,5,6}>"
    before = parse(
        f"g (float[N,2] x) => (float[N,2] y, float[N,3] z) {weights}"
        "{ a = MatMul(x, p)  y = Relu(a)  b = MatMul(x, q)  z = Abs(b) }"
    )
    after = parse(
        "g (float[N,2] x) => (float[N,2] y, float[N,3] z) "
        "<float[2,5] w = {1,2,1,2,3,3,4,4,5,6}, int64[2] s = {2,3}>"
        "{ t = MatMul(x, w)  a, b = Split<axis = -1>(t, s)  y = Relu(a)  z = Abs(b) }"
    )
    assert_rewrites(merge_matmuls, before, after)


def test_fusing_into_a_cycle_is_refused() -> None:
    @rule
    def merge(op: Any, x: Any, u: Any, v: Any) -> Any:
        return op.Add(x, u), op.Mul(x, v)

    @merge.rewrite
    def _(op: Any, x: Any, u: Any, v: Any) -> Any:
        return op.Add(x, u), op.Mul(x, v)

    # The Mul takes what the Add feeds: no node can stand for both.
    before = parse(
        "g (float[2] x, float[2] u) => (float[2] y) { a = Add(x, u)  r = Relu(a)  y = Mul(x, r) }"
    )
    assert_refuses(merge, before, "fusing would make a cycle")


def test_variadic_operands_arrive_as_a_tuple() -> None:
    @rule
    def concat_of_one(op: Any, xs: Any = variadic()) -> Any:
        return op.Concat(xs)

    @concat_of_one.rewrite
    def _(op: Any, xs: Any) -> Any:
        return xs[0] if len(xs) == 1 else NoMatch("several inputs")

    before = parse("g (float[2] x) => (float[2] y) { t = Concat<axis = 0>(x)  y = Relu(t) }")
    after = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert_rewrites(concat_of_one, before, after)


def test_metadata_and_names_survive() -> None:
    model = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) "
        "{ t = MatMul(x, w)  s = Add(t, b)  y = Relu(s) }"
    )
    model.graph[1].metadata_props["pkg.torch.onnx.name_scopes"] = "encoder"
    run_pass(matmul_add_to_gemm, model)
    gemm = model.graph[0]
    assert gemm.metadata_props == {"pkg.torch.onnx.name_scopes": "encoder"}
    assert gemm.outputs[0].name == "s"
    assert gemm.outputs[0].dtype == ir.DataType.FLOAT
    assert gemm.outputs[0].shape is not None


def _four() -> ir.Model:
    body = "".join(f"a{i} = Neg(x)  b{i} = Neg(a{i})  y{i} = Relu(b{i}) " for i in range(4))
    outputs = ", ".join(f"float[2] y{i}" for i in range(4))
    return parse(f"g (float[2] x) => ({outputs}) {{ {body} }}")


@pytest.mark.parametrize("limit", range(5))
def test_bisect_limit_does_exactly_the_first_n(limit: int) -> None:
    model = _four()
    ctx = run_pass(double_neg, model, limit=limit)
    assert rewrites(ctx).get("double-neg", 0) == limit
    assert sum(node.op_type == "Neg" for node in model.graph) == 2 * (4 - limit)
    assert ctx.reports[0].rules["double-neg"].skipped == 4 - limit


def test_disable_by_rule_and_by_pass() -> None:
    for pattern in ("double-neg", "double-*"):
        model = _four()
        ctx = run_pass(double_neg, model, disable=(pattern,))
        assert not rewrites(ctx)
        assert len(model.graph) == 12


def test_counts_times_and_reasons_are_kept_by_rule() -> None:
    model = parse(
        "g (float[N,4] x, float[4,3] w, float[3] b, float[2,2,4] v) "
        "=> (float[N,3] y, float[2,2,3] z) "
        "{ t = MatMul(x, w)  y = Add(t, b)  u = MatMul(v, w)  z = Add(u, b) }"
    )
    ctx = run_pass(matmul_add_to_gemm, model)
    entry = ctx.reports[0].rules["matmul-add-to-gemm"]
    assert entry.rewrites == 1
    assert entry.seconds > 0
    assert refusals(ctx) == {"matmul-add-to-gemm": {"x and w must have rank 2": 1}}


def test_twice_is_once() -> None:
    model = _four()
    run_pass(double_neg, model)
    text = str(model)
    ctx = run_pass(double_neg, model)
    assert not ctx.reports[0].changed
    assert str(model) == text


def test_a_rewrite_asks_only_for_what_is_bound() -> None:
    made: Rule = rule(name="r")(lambda op, x: op.Neg(x))
    with pytest.raises(TypeError, match="asks for 'z', which is not bound"):
        made.rewrite(lambda op, z: z)


def test_work_is_linear_in_nodes() -> None:
    def attempts(count: int) -> int:
        calls = 0

        @rule
        def counted(op: Any, x: Any) -> Any:
            return op.Neg(op.Neg(x))

        @counted.rewrite
        def _(op: Any, x: Any) -> Any:
            nonlocal calls
            calls += 1
            return x

        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
        nodes, value = [], x
        for _i in range(count):
            node = ir.Node("", "Neg", [value])
            nodes.append(node)
            value = node.outputs[0]
        value.type, value.shape, value.name = x.type, x.shape, "y"
        graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 21}, name="g")
        model = ir.Model(graph, ir_version=10)
        pass_of("counted", counted)().run(model, PassContext(Target.parse("cpu")))
        assert len(model.graph) == 1
        return calls

    assert attempts(1001) == 500
    assert attempts(2001) == 1000


@rule
def identity_away(op: Any, x: Any) -> Any:
    """Identity(x) -> x."""
    return op.Identity(x)


@identity_away.rewrite
def _(op: Any, x: Any) -> Any:
    return x


@rule
def sin_and_cos(op: Any, x: Any) -> Any:
    """Sin(x), Cos(x) -> two others; it starts at the Sin."""
    return op.Sin(x), op.Cos(x)


@sin_and_cos.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Neg(x), op.Abs(x)


def test_a_rewrite_wakes_only_the_users_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else n rewrites that hand their users to one value take time quadratic in n."""

    def pushes(count: int) -> int:
        calls = 0
        push = rewrite._Driver.push

        def counted(driver: Any, node: ir.Node) -> None:
            nonlocal calls
            calls += 1
            push(driver, node)

        body = "  ".join(f"i{i} = Identity(h)  r{i} = Relu(i{i})" for i in range(count))
        results = ", ".join(f"r{i}" for i in range(count))
        model = parse(
            f"g (float[N] x) => (float[M] y) {{ h = Neg(x) {body} y = Concat<axis=0>({results}) }}"
        )
        with monkeypatch.context() as patch:
            patch.setattr(rewrite._Driver, "push", counted)
            ctx = run_pass(identity_away, model)
        assert rewrites(ctx) == {"identity-away": count}
        return calls

    assert pushes(80) < 2.5 * pushes(40)


def test_a_new_sibling_lets_a_rule_with_several_outputs_match() -> None:
    model = parse(
        "g (float[N] x) => (float[N] y, float[N] z) "
        "{ h = Neg(x)  y = Sin(h)  i = Identity(h)  z = Cos(i) }"
    )
    ctx = run_pass(pass_of("siblings", sin_and_cos, identity_away)(), model)
    assert rewrites(ctx) == {"identity-away": 1, "sin-and-cos": 1}


@rule
def times_one(op: Any, x: Any) -> Any:
    """Mul(x, 1) -> x."""
    return op.Mul(x, 1.0)


@times_one.rewrite
def _(op: Any, x: Any) -> Any:
    return x


def test_a_replacement_of_another_shape_is_refused() -> None:
    same = parse(
        "g (float[3] x) => (float[3] z) <float[1] one = {1}> { y = Mul(x, one) z = Abs(y)}"
    )
    after = parse("g (float[3] x) => (float[3] z) { z = Abs(x) }")
    assert_rewrites(times_one, same, after)
    more = parse(
        "g (float[3] x) => (float[1,3] z) <float[1,1] one = {1}> { y = Mul(x, one) z = Abs(y)}"
    )
    assert_refuses(times_one, more, "the replacement has another shape")


@rule
def thrice_negated(op: Any, x: Any) -> Any:
    """Neg(Neg(Neg(Abs(x)))) -> Neg(Abs(x)), and the same with Relu."""
    return op.Neg(op.Neg(op.Neg(op.Abs(x, _bind="inner"))))


@thrice_negated.also
def _(op: Any, x: Any) -> Any:
    return op.Neg(op.Neg(op.Neg(op.Relu(x, _bind="inner"))))


@thrice_negated.rewrite
def _(op: Any, x: Any, inner: Any) -> Any:
    return op.Neg(op.like(inner, x))


_NEGATED = "g (float[3] x) => (float[3] y) {{ a = {}(x) b = Neg(a) c = Neg(b) y = Neg(c) }}"


def test_a_spelling_that_failed_is_no_refusal_where_another_fired() -> None:
    ctx = run_pass(thrice_negated, parse(_NEGATED.format("Relu")))
    assert rewrites(ctx) == {"thrice-negated": 1}
    assert refusals(ctx) == {}


def test_a_refusal_is_reported_once_for_all_spellings() -> None:
    ctx = run_pass(thrice_negated, parse(_NEGATED.format("Tanh")))
    assert refusals(ctx) == {"thrice-negated": {"Tanh stands where Abs should": 1}}


def test_a_rule_that_feeds_on_what_it_makes_is_stopped() -> None:
    @rule
    def double(op: Any, x: Any) -> Any:
        """Neg(x) -> Neg(Neg(Neg(x)))."""
        return op.Neg(x)

    @double.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(op.Neg(x)))

    ctx = run_pass(double, parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"))
    assert ctx.warnings == ["rule double was stopped after 5001 rewrites: it finds no end"]


@rule
def half(op: Any, x: Any) -> Any:
    """Mul(Div(x, 2), 1) -> Div(x, 2)."""
    return op.Mul(op.Div(x, 2.0), 1.0)


@half.rewrite
def _(op: Any, x: Any) -> Any:
    return op.Div(x, np.float32(2))


@pytest.mark.parametrize("rank_known", [True, False])
@pytest.mark.parametrize("dims", ["", "[1]", "[1,1]"])
def test_a_number_of_several_axes_stays_where_the_rank_is_unknown(
    dims: str, rank_known: bool
) -> None:
    """In a function nothing is known of what it is given."""
    two, one = (f"Constant<value = float{dims} {{{number}}}>()" for number in (2, 1))
    body = f"{{ two = {two} one = {one} t = Div(x, two) y = Mul(t, one) }}"
    model = parse(
        f"g (float[3] x) => (float[] y) {body}"
        if rank_known
        else """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[3] x) => (float[] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]> f (x) => (y) """
        + body
    )
    original = model.clone()
    fired = rewrites(run_pass(half, model)) == {"half": 1}
    assert fired == (dims == "" or (rank_known and dims == "[1]"))
    assert_same_outputs(original, model)
