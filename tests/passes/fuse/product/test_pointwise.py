# SPDX-License-Identifier: Apache-2.0
"""Products become pointwise convolutions, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends.preferences import Preference
from burnish.backends.target import Target
from burnish.passes.fuse.product.pointwise import ALONE, Pointwise, ProductsToConvs
from burnish.passes.pipeline import Pipeline
from burnish.testing import (
    assert_refuses,
    parse,
    refusals,
    rewritten,
    run_pass,
)

Freeze = Callable[..., ir.Model]

# As if one product alone were worth it, which is otherwise measured.
_EAGER = dataclasses.replace(
    Target.parse("cpu"),
    preferences=(Preference(ALONE, True), *Target.parse("cpu").preferences),
)
_CONSTANTS = "float[8,12] w, float[12,8] u, float[12] b, float[1,1,8] c, float[8,12] g"
_MLP = "m = MatMul(x, w)  h = Add(m, b)  a = Gelu(h)  n = MatMul(a, u)  y = Add(c, n)"
_GATED = (
    "m = MatMul(x, w)  h = MatMul(x, g)  s = Sigmoid(m)  t = Mul(m, s)  a = Mul(t, h)"
    "  y = MatMul(a, u)"
)


def _model(
    freeze: Freeze, body: str, *, x: str = "float[B,S,8]", y: str = "float[B,S,N]", opset: int = 21
) -> ir.Model:
    return freeze(f"g ({x} x, {_CONSTANTS}) => ({y} y) {{ {body} }}", opset=opset)


def _counts(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize(
    ("body", "convs"),
    [
        ("y = MatMul(x, w)", 1),
        ("m = MatMul(x, w)  y = Add(b, m)", 1),
        (_MLP, 2),
        (_GATED, 3),
        ("m = MatMul(x, w)  h = QuickGelu<alpha=1.0>(m)  y = MatMul(h, u)", 2),
        ("m = MatMul(x, w)  n = MatMul(m, u)  p = Relu(n)  y = MatMul(p, g)", 3),
    ],
)
@pytest.mark.parametrize(
    ("x", "y"),
    [("float[B,S,8]", "float[B,S,N]"), ("float[2,3,5,8]", "float[2,3,5,N]")],
)
def test_what_lies_between_products_is_in_one_layout(
    freeze: Freeze, body: str, convs: int, x: str, y: str
) -> None:
    body = body.replace("QuickGelu", "com.microsoft.QuickGelu")
    if "4" in x or "5" in x:
        body = body.replace("(c, n)", "(n, c)")
    before = _model(freeze, body, x=x, y=y)
    after = rewritten(Pointwise(), before, target=_EAGER)
    found = _counts(after)
    assert "MatMul" not in found
    assert (found["Conv"], found["Transpose"]) == (convs, 2)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm<transB=1>(x, w8, b)",
        "m = Gemm<transB=1>(x, w8, b)  h = Relu(m)  y = Gemm(h, u)",
    ],
)
def test_a_row_is_a_map_of_one_pixel(freeze: Freeze, body: str) -> None:
    before = freeze(
        "g (float[1,8] x, float[12,8] w8, float[12] b, float[12,8] u) => (float[1,N] y)"
        f" {{ {body} }}"
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    found = _counts(after)
    assert (found["Gemm"], found["Unsqueeze"], found["Flatten"]) == (0, 1, 1)


@pytest.mark.parametrize(
    "view",
    [
        "f = Flatten(x)",
        "f = Reshape<allowzero=0>(x, shape)",
        "f0 = Flatten(x)  f = Relu(f0)",
    ],
)
def test_a_flattened_map_is_convolved_as_it_is(freeze: Freeze, view: str) -> None:
    before = freeze(
        "g (float[1,4,3,2] x, float[24,8] w, float[8] b, float[8,4] u, int64[2] shape)"
        f" => (float[1,4] y) {{ {view}  m = Gemm(f, w, b)  h = Relu(m)  y = Gemm(h, u) }}",
        shape=np.array([1, -1]),
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    kernels = [node.inputs[1].shape for node in after.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert [tuple(shape or ()) for shape in kernels] == [(8, 4, 3, 2), (4, 8, 1, 1)]
    assert len(after.graph) == len(before.graph)


def test_a_map_that_is_turned_to_the_front_again_never_left_it(freeze: Freeze) -> None:
    body = _MLP.replace("y = Add", "z = Add") + "  y = Transpose<perm = [0, 3, 1, 2]>(z)"
    model = _model(freeze, body, x="float[B,4,5,8]", y="float[B,8,4,5]")
    after = rewritten(Pointwise(), model)
    assert _counts(after)["Conv"] == 2
    assert _counts(after)["Transpose"] == 1


def test_products_of_one_input_share_its_reordering(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, {_CONSTANTS}) => (float[B,S,12] y, float[B,S,12] z)"
        " { m = MatMul(x, w)  y = Add(m, b)  z = MatMul(x, g) }"
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert _counts(after) == {"Unsqueeze": 1, "Transpose": 3, "Conv": 2, "Squeeze": 2}


def test_weights_of_two_products_stay_one(freeze: Freeze) -> None:
    before = _model(
        freeze, "m = MatMul(x, w)  h = Relu(m)  n = MatMul(h, u)  p = Tanh(n)  y = MatMul(p, w)"
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert len(after.graph.initializers) == 3  # two weights, and the axis of two views


def test_weights_read_in_two_ways_are_written_in_two(freeze: Freeze) -> None:
    """As they are and turned; of a flattened map and of a row."""
    turned = freeze(
        "g (float[1,8] x, float[8,8] w) => (float[1,8] y)"
        " { a = Gemm(x, w)  h = Relu(a)  y = Gemm<transB=1>(h, w) }"
    )
    flat = freeze(
        "g (float[1,2,2,2] x, float[8,8] w) => (float[1,8] y)"
        " { f = Flatten(x)  a = Gemm(f, w)  h = Relu(a)  y = Gemm(h, w) }"
    )
    for before in (turned, flat):
        after = rewritten(Pointwise(), before, target=_EAGER)
        assert _counts(after)["Conv"] == 2


def test_a_bias_of_more_axes_is_no_bias(freeze: Freeze) -> None:
    before = freeze(
        "g (float[2,3,5,8] x, float[8,12] w, float[1,1,1,1,12] b) => (float[1,2,3,5,12] y)"
        " { m = MatMul(x, w)  y = Add(m, b) }"
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert (_counts(after)["Conv"], _counts(after)["Add"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ("y = MatMul(x, w)", {"x": "float[N,8]"}, "the rows may be samples"),
        ("y = MatMul(x, w)", {"x": "float[8]"}, "not two to four axes"),
        ("m = MatMul(x, w)  s = ReduceSum(w)  y = Add(m, s)", {}, "used by other nodes too"),
    ],
)
def test_refuses(freeze: Freeze, body: str, options: dict[str, Any], reason: str) -> None:
    assert_refuses(ProductsToConvs(), _model(freeze, body, **options), reason)


def test_refuses_channels_that_fit_no_block(freeze: Freeze) -> None:
    model = freeze("g (float[B,S,9] x, float[9,4] w) => (float[B,S,4] y) { y = MatMul(x, w) }")
    assert_refuses(ProductsToConvs(), model, "no multiple of four")


def test_refuses_other_types(freeze: Freeze) -> None:
    model = freeze("g (double[B,S,8] x, double[8,4] w) => (double[B,S,4] y) { y = MatMul(x, w) }")
    assert_refuses(ProductsToConvs(), model, "only float32")


@pytest.mark.parametrize(
    "body",
    [
        # Others read what is between: the products stay apart, and each is convolved.
        "m = MatMul(x, w)  h = Relu(m)  n = MatMul(h, u)  r = ReduceMax(h)  y = Add(n, r)",
        # An operator that the layout has not.
        "m = MatMul(x, w)  h = Erf(m)  y = MatMul(h, u)",
        # A gate from elsewhere.
        "m = MatMul(x, w)  e = Exp(m)  s = Sigmoid(e)  h = Mul(m, s)  y = MatMul(h, u)",
    ],
)
def test_keeps_apart_what_others_read_or_make(freeze: Freeze, body: str) -> None:
    before = _model(freeze, body)
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert _counts(after)["Transpose"] == 4


def test_one_product_alone_stays_unless_measured_faster(freeze: Freeze) -> None:
    assert_refuses(ProductsToConvs(), _model(freeze, "y = MatMul(x, w)"), "runs it no faster")


@pytest.mark.parametrize("opset", [11, 12])
def test_leaves_older_opsets_alone(freeze: Freeze, opset: int) -> None:
    model = _model(freeze, "y = MatMul(x, w)", opset=opset)
    run_pass(Pointwise(), model, target=_EAGER)
    assert _counts(model) == {"MatMul": 1}


def test_once_is_enough(freeze: Freeze) -> None:
    model = _model(freeze, _MLP)
    run_pass(Pointwise(), model, target=_EAGER)
    once = [node.op_type for node in model.graph]
    run_pass(Pointwise(), model, target=_EAGER)
    assert [node.op_type for node in model.graph] == once


def test_waits_for_passes_that_change_weights() -> None:
    names = [item.name for item in Pipeline.parse("fuse,prune,quant").expand().passes]
    assert names.index("products-to-convs") > names.index("quant-tables")
    assert names.count("products-to-convs") == 1
    alone = [item.name for item in Pipeline.parse("fuse,cleanup").expand().passes]
    assert "dedup" in alone[alone.index("products-to-convs") :]


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_keep_their_numbers(freeze: Freeze, seed: int) -> None:
    """Products, biases, functions, gates and sums that others read, in any order."""
    rng = random.Random(seed)
    rank = rng.choice(["float[B,S,8]", "float[2,3,5,8]", "float[1,8]"])
    lines, made = list[str](), [("x", 8)]
    for index in range(rng.randint(3, 9)):
        (value, width), name = rng.choice(made[-2:]), f"t{index}"
        peers = [other for other, size in made if size == width]
        kinds = ["product", "product", "function", "bias", "join"]
        match rng.choice(kinds):
            case "product":
                lines.append(f"{name} = MatMul({value}, {'w' if width == 8 else 'u'})")
                width = 20 - width
            case "function":
                lines.append(f"{name} = {rng.choice(['Relu', 'Gelu', 'Tanh', 'Erf'])}({value})")
            case "bias":
                lines.append(f"{name} = Add({value}, {'b' if width == 12 else 'd'})")
            case "join":
                join = rng.choice(["Mul", "Add"])
                lines.append(f"{name} = {join}({value}, {rng.choice(peers)})")
        made.append((name, width))
    shape = rank.replace("8]", "N]")
    outputs = f"{shape} {made[-1][0]}, {shape} {rng.choice(made[1:-1])[0]}"
    weights = "float[8,12] w, float[12,8] u, float[12] b, float[8] d"
    before = freeze(f"g ({rank} x, {weights}) => ({outputs}) {{ {'  '.join(lines)} }}", opset=21)
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert _counts(after)["MatMul"] == 0


_BEFORE = "m = MatMul(x, w)  r = Relu(m)"


def test_readers_before_the_last_bias_find_what_they_read(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, {_CONSTANTS}, float[12,8] v, float[8] d)"
        " => (float[B,S,8] y, float[B,S,8] z)"
        f" {{ {_BEFORE}  n = MatMul(r, u)  o = MatMul(r, v)  p = Relu(o)  z = Neg(p)"
        "  y = Add(n, d) }"
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert "MatMul" not in _counts(after)


_CHOICE = (
    "y = If(q) <then_branch = t () => (float[B,S,8] i) { i = MatMul(r, u) },"
    " else_branch = e () => (float[B,S,8] j) { j = Identity(x) }>"
)


@pytest.mark.parametrize("body", [f"{_CHOICE}  z = MatMul(r, v)", f"z = MatMul(r, v)  {_CHOICE}"])
@pytest.mark.parametrize("chosen", [True, False])
def test_products_of_a_branch_are_not_beside_those_outside(
    freeze: Freeze, body: str, chosen: bool
) -> None:
    before = freeze(
        f"g (float[B,S,8] x, bool q, {_CONSTANTS}, float[12,8] v)"
        f" => (float[B,S,8] y, float[B,S,8] z) {{ {_BEFORE}  {body} }}",
        q=np.array(chosen),
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert (_counts(after)["MatMul"], _counts(after)["Conv"]) == (0, 2)


def test_a_loop_does_not_take_in_what_is_computed_once(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, int64 n, {_CONSTANTS}) => (float[B,S,8] y)"
        f" {{ {_BEFORE}  y = Loop(n,, x) <body = l (int64 i, bool go, float[B,S,8] s)"
        " => (bool on, float[B,S,8] sum)"
        " { on = Identity(go)  o = MatMul(r, u)  sum = Add(s, o) }> }",
        n=np.array(3),
    )
    after = rewritten(Pointwise(), before, target=_EAGER)
    assert _counts(after)["Conv"] == 1


def test_each_product_is_refused_once(freeze: Freeze) -> None:
    model = freeze(
        f"g (float[B,S,8] x, {_CONSTANTS}) => (float[B,S,12] y, float[B,S,12] z)"
        " { m = MatMul(x, w)  y = Add(m, b)  n = MatMul(x, g)  z = Add(n, b) }"
    )
    found = refusals(run_pass(ProductsToConvs(), model))
    assert sum(found["products-to-convs"].values()) == 2


@pytest.mark.parametrize(("rows", "stay"), [(1 << 18, True), (1 << 10, False)])
def test_weights_of_a_model_larger_than_memory_stay_in_their_file(
    tmp_path: Path, rows: int, stay: bool
) -> None:
    """What is written anew would be in memory, and again where the numbers are checked."""
    model = parse(
        f"g (float[1,S,32] x, int64[N] i, float[{rows},1024] table, float[32,32] w)"
        " => (float[1,S,32] y, float[N,1024] z) {"
        " m = MatMul(x, w)  h = Gelu(m)  y = MatMul(h, w)  z = Gather(table, i) }"
    )
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(4 * 1024 * (rows + 1))  # a hole, of which the disk holds nothing
    for value in model.graph.inputs[2:]:
        assert value.shape is not None
        shape, name = ir.Shape(value.shape.numpy()), value.name or ""
        offset = 0 if name == "w" else 4096
        size = 4 * int(np.prod(value.shape.numpy()))
        value.const_value = ir.ExternalTensor(
            "weights", offset, size, ir.DataType.FLOAT, shape=shape, name=name, base_dir=tmp_path
        )
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    ctx = run_pass(Pointwise(), model, target=_EAGER)
    assert (_counts(model)["MatMul"] == 2) == stay
    if stay:
        (reason,) = refusals(ctx)["products-to-convs"]
        assert reason == "the weights are mapped from a file too large for memory"
