# SPDX-License-Identifier: Apache-2.0
"""Products become pointwise convolutions, or the rule says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.product.pointwise.pointwise import Pointwise
from burnish.passes.fuse.product.pointwise.products_to_convs import ProductsToConvs
from burnish.testing import assert_refuses, parse, refusals, rewritten, run_pass
from tests.passes.fuse.product.pointwise.conftest import CONSTANTS, EAGER, Freeze, counts, products


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ("y = MatMul(x, w)", {"x": "float[N,8]"}, "the rows may be samples"),
        ("y = MatMul(x, w)", {"x": "float[8]"}, "not two to four axes"),
        ("m = MatMul(x, w)  s = ReduceSum(w)  y = Add(m, s)", {}, "used by other nodes too"),
    ],
)
def test_refuses(freeze: Freeze, body: str, options: dict[str, Any], reason: str) -> None:
    assert_refuses(ProductsToConvs(), products(freeze, body, **options), reason)


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
    before = products(freeze, body)
    after = rewritten(Pointwise(), before, target=EAGER)
    assert counts(after)["Transpose"] == 4


def test_one_product_alone_stays_unless_measured_faster(freeze: Freeze) -> None:
    assert_refuses(ProductsToConvs(), products(freeze, "y = MatMul(x, w)"), "runs it no faster")


@pytest.mark.parametrize("opset", [11, 12])
def test_leaves_older_opsets_alone(freeze: Freeze, opset: int) -> None:
    model = products(freeze, "y = MatMul(x, w)", opset=opset)
    run_pass(Pointwise(), model, target=EAGER)
    assert counts(model) == {"MatMul": 1}


_BEFORE = "m = MatMul(x, w)  r = Relu(m)"


def test_readers_before_the_last_bias_find_what_they_read(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, {CONSTANTS}, float[12,8] v, float[8] d)"
        " => (float[B,S,8] y, float[B,S,8] z)"
        f" {{ {_BEFORE}  n = MatMul(r, u)  o = MatMul(r, v)  p = Relu(o)  z = Neg(p)"
        "  y = Add(n, d) }"
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert "MatMul" not in counts(after)


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
        f"g (float[B,S,8] x, bool q, {CONSTANTS}, float[12,8] v)"
        f" => (float[B,S,8] y, float[B,S,8] z) {{ {_BEFORE}  {body} }}",
        q=np.array(chosen),
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert (counts(after)["MatMul"], counts(after)["Conv"]) == (0, 2)


def test_a_loop_does_not_take_in_what_is_computed_once(freeze: Freeze) -> None:
    before = freeze(
        f"g (float[B,S,8] x, int64 n, {CONSTANTS}) => (float[B,S,8] y)"
        f" {{ {_BEFORE}  y = Loop(n,, x) <body = l (int64 i, bool go, float[B,S,8] s)"
        " => (bool on, float[B,S,8] sum)"
        " { on = Identity(go)  o = MatMul(r, u)  sum = Add(s, o) }> }",
        n=np.array(3),
    )
    after = rewritten(Pointwise(), before, target=EAGER)
    assert counts(after)["Conv"] == 1


def test_each_product_is_refused_once(freeze: Freeze) -> None:
    model = freeze(
        f"g (float[B,S,8] x, {CONSTANTS}) => (float[B,S,12] y, float[B,S,12] z)"
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
    ctx = run_pass(Pointwise(), model, target=EAGER)
    assert (counts(model)["MatMul"] == 2) == stay
    if stay:
        (reason,) = refusals(ctx)["products-to-convs"]
        assert reason == "the weights are mapped from a file too large for memory"
