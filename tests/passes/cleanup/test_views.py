# SPDX-License-Identifier: Apache-2.0
"""Chains of Reshape, Flatten, Squeeze and Unsqueeze."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.passes.cleanup import views
from burnish.passes.rule import Rule
from burnish.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    parse,
    run_pass,
)


def label(item: object) -> str:
    """Name a test by its rule and expression."""
    return item.name if isinstance(item, Rule) else str(item)


def model(opset: int, nodes: str, constants: dict[str, str], dims: str = "2,1,3") -> ir.Model:
    """Return a model whose nodes compute `b` from `x`."""
    defined = "  ".join(f"{name} = Constant<value = {text}>()" for name, text in constants.items())
    return parse(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{dims}] x) => (y) '
        f"{{ {defined}  {nodes}  y = Neg(b) }}"
    )


ONE, TWO, BOTH = {"i": "int64[1] {1}"}, {"j": "int64[1] {2}"}, {"k": "int64[2] {1, 2}"}


@pytest.mark.parametrize(
    ("rule", "opset", "before", "after", "constants"),
    [
        (views.unsqueeze_squeeze, 13, "a = Unsqueeze(x, i)  b = Squeeze(a, i)", "", ONE),
        (views.unsqueeze_squeeze, 13, "a = Squeeze(x, i)  b = Unsqueeze(a, i)", "", ONE),
        (
            views.unsqueeze_squeeze,
            11,
            "a = Squeeze<axes = [1]>(x)  b = Unsqueeze<axes = [1]>(a)",
            "",
            {},
        ),
        (
            views.unsqueeze_unsqueeze,
            13,
            "a = Unsqueeze(x, i)  b = Unsqueeze(a, j)",
            "b = Unsqueeze(x, k)",
            ONE | TWO | BOTH,
        ),
        (
            views.unsqueeze_unsqueeze,
            11,
            # 2, then in front of it: what was put at 2 moves to 3
            "a = Unsqueeze<axes = [2]>(x)  b = Unsqueeze<axes = [0]>(a)",
            "b = Unsqueeze<axes = [0, 3]>(x)",
            {},
        ),
        (
            views.squeeze_squeeze,
            11,
            "u = Unsqueeze<axes = [0]>(x)  a = Squeeze<axes = [2]>(u)  b = Squeeze<axes = [0]>(a)",
            "u = Unsqueeze<axes = [0]>(x)  b = Squeeze<axes = [0, 2]>(u)",
            {},
        ),
        (
            views.reshape_reshape,
            13,
            "a = Reshape(x, k)  b = Reshape(a, i)",
            "b = Reshape(x, i)",
            {"i": "int64[3] {3, -1, 1}", "k": "int64[2] {-1, 2}"},
        ),
        (
            views.reshape_reshape,
            13,
            "a = Reshape(x, k)  b = Reshape(a, i)",
            "b = Reshape(x, m)",
            {"i": "int64[2] {0, -1}", "k": "int64[2] {3, 2}", "m": "int64[2] {3, -1}"},
        ),
        (
            views.reshape_reshape,
            13,
            "a = Flatten<axis = 2>(x)  b = Unsqueeze(a, i)",
            "b = Reshape(x, m)",
            ONE | {"m": "int64[3] {2, 1, 3}"},
        ),
        (
            views.reshape_reshape,
            14,
            "a = Flatten<axis = 2>(x)  b = Reshape<allowzero = 1>(a, m)",
            "b = Reshape<allowzero = 1>(x, m)",
            {"m": "int64[2] {3, 2}"},
        ),
    ],
    ids=label,
)
def test_fires(rule: Rule, opset: int, before: str, after: str, constants: dict[str, str]) -> None:
    def used(nodes: str) -> dict[str, str]:
        words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
        return {name: text for name, text in constants.items() if name in words}

    expected = model(opset, after or "b = Abs(x)", used(after))
    if not after:
        (neg,) = [node for node in expected.graph if node.op_type == "Neg"]
        neg.replace_input_with(0, expected.graph.inputs[0])
        expected.graph.remove(expected.graph.node(0))
    assert_rewrites(rule, model(opset, before, used(before)), _with_initializers(expected))


def _with_initializers(model: ir.Model) -> ir.Model:
    """Turn Constant nodes into initializers, which is what rules make."""
    for node in list(model.graph):
        if node.op_type == "Constant":
            tensor = node.attributes["value"].as_tensor()
            value = ir.Value(name=f"{node.outputs[0].name}_", const_value=tensor)
            model.graph.register_initializer(value)
            node.outputs[0].replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
    return model


@pytest.mark.parametrize(
    ("rule", "nodes", "constants", "reason"),
    [
        (
            views.unsqueeze_squeeze,
            "a = Unsqueeze(x, i)  b = Squeeze(a, j)",
            {"i": "int64[1] {0}", "j": "int64[1] {2}"},
            "the axes differ",
        ),
        (
            views.unsqueeze_squeeze,
            "a = Unsqueeze(x, i)  b = Squeeze(a)",
            {"i": "int64[1] {0}"},
            "the axes differ",
        ),
        (
            views.unsqueeze_unsqueeze,
            "a = Unsqueeze(x, i)  b = Unsqueeze(a, i)",
            {"i": "int64[1] {-1}"},
            "axes are negative",
        ),
        (
            views.reshape_reshape,
            "a = Reshape(x, i)  c = Abs(a)  b = Reshape(a, j)  d = Add(c, a)",
            {"i": "int64[1] {-1}", "j": "int64[2] {3, 2}"},
            "other operators need the first one",
        ),
    ],
    ids=label,
)
def test_refuses(rule: Rule, nodes: str, constants: dict[str, str], reason: str) -> None:
    assert_refuses(rule, model(21, nodes, constants), reason)


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        (
            # N * 3 has no place of its own in x, and a 0 beside a -1 fails where N is 0
            "a = Flatten<axis = 2>(x)  b = Unsqueeze(a, i)",
            {"i": "int64[1] {0}"},
            None,
        ),
        (
            "a = Reshape(x, k)  b = Reshape(a, j)",
            {"k": "int64[2] {-1, 3}", "j": "int64[3] {0, 3, 1}"},
            "only the shape in between has",
        ),
    ],
)
def test_symbolic_sizes(nodes: str, constants: dict[str, str], reason: str | None) -> None:
    before = model(21, nodes, constants, dims="N,4,3")
    if reason is None:
        after = _with_initializers(
            model(21, "b = Reshape(x, k)", {"k": "int64[3] {1, -1, 3}"}, dims="N,4,3")
        )
        assert_rewrites(views.reshape_reshape, before, after)
    else:
        assert_refuses(views.reshape_reshape, before, reason)


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (13, "a = Squeeze(x, e)  b = Relu(a)"),
        (13, "a = Squeeze(x, e)  b = Squeeze(a, e)"),
        (13, "a = Unsqueeze(x, i)  b = Squeeze(a, e)"),
        (13, "a = Squeeze(x, e)  b = Unsqueeze(a, i)"),
        (13, "a = Unsqueeze(x, e)  b = Unsqueeze(a, i)"),
        (13, "w = Squeeze(c, e)  a = Add(x, w)  b = Relu(a)"),
        (11, "a = Squeeze<axes: ints = []>(x)  b = Relu(a)"),
        (11, "a = Squeeze<axes: ints = []>(x)  b = Squeeze<axes: ints = []>(a)"),
    ],
)
@pytest.mark.parametrize("dims", ["2,1,3", "N,1,3"])
def test_squeeze_of_no_axes_removes_all_ones_as_the_runtime_does(
    opset: int, text: str, dims: str
) -> None:
    given = {"e": "int64[0] {}", "i": "int64[1] {1}", "c": "float[1,1,3] {1.0, 2.0, 3.0}"}
    made = model(
        opset,
        text,
        {name: given[name] for name in "eic" if f"{name})" in text or f"({name}," in text},
        dims,
    )
    before = made.clone()
    run_pass("cleanup", made)
    assert_same_outputs(before, made)


def test_views_of_a_view_that_all_read_what_it_reads() -> None:
    constants = "int64[1] i = {1}, int64[1] j = {3}, int64[1] n = {0}"
    both = "int64[2] k = {1, 3}, int64[2] o = {0, 2}"
    signature = f"g (float[2,3] x) => (y, z) <{constants}, {both}> "
    before = parse(signature + "{ a = Unsqueeze(x, i) y = Unsqueeze(a, j) z = Unsqueeze(a, n) }")
    after = parse(signature + "{ y = Unsqueeze(x, k) z = Unsqueeze(x, o) }")
    assert_rewrites(views.unsqueeze_unsqueeze, before, after)


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (views.unsqueeze_unsqueeze, "a = Unsqueeze(x, i)  y = Unsqueeze(a, j)  z = Neg(a)"),
        (views.reshape_reshape, "a = Flatten(x)  y = Unsqueeze(a, j)  z = Neg(a)"),
    ],
    ids=label,
)
def test_a_view_that_is_read_as_it_is_stays(rule: Rule, body: str) -> None:
    constants = "int64[1] i = {1}, int64[1] j = {2}"
    model_ = parse(f"g (float[2,3] x) => (y, z) <{constants}> {{ {body} }}")
    assert_refuses(rule, model_, "other operators need the first one")
