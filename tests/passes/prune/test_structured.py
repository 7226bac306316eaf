# SPDX-License-Identifier: Apache-2.0
"""The passes that cut: what they choose, budgets, errors, and that the order of passes holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.backends.target import Target
from burnish.errors import BudgetError, InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.prune.flops import Sizes, flops
from burnish.passes.shapes import infer_shapes
from burnish.testing import refusals, rewrites, run_pass

Weighted = Callable[..., ir.Model]

NETWORK = (
    "g (float[N,3,8,8] x, float[64,3,3,3] w1, float[64] wa, float[64,64,1,1] w2, float[64] wb,"
    " float[32,64,1,1] w3, float[2048,40] w4, float[40,5] w5) => (float[N,5] y)"
    "{ c1 = Conv<pads=[1,1,1,1]>(x, w1, wa)  r1 = Relu(c1)  c2 = Conv(r1, w2, wb)"
    " s = Add(c1, c2)  r2 = Relu(s)  c3 = Conv(r2, w3)  f = Flatten(c3)  g = MatMul(f, w4)"
    " r = Relu(g)  y = MatMul(r, w5) }"
)
ATTENTION = (
    '<ir_version: 11, opset_import: ["" : 23]>\n'
    "g (float[N,T,12] x, float[12,24] w1, float[12,24] w2, float[12,24] w3, float[24,12] w4) =>"
    "(float[N,T,12] y) { q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
    " a = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v)  y = MatMul(a, w4) }"
)


def _details(ctx: PassContext) -> dict[str, Any]:
    return ctx.reports[-1].details


def _kept(ctx: PassContext) -> list[int]:
    return [group["kept"] for group in _details(ctx)["groups"]]


def _shape(model: ir.Model, name: str) -> list[int]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return [int(size) for size in tensor.shape.numpy()]


def test_channels_are_cut_with_all_that_is_coupled(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    ctx = run_pass("prune-channels{ratio=0.25 align=16}", model)
    assert rewrites(ctx) == {"prune-channels": 1}
    assert _kept(ctx) == [48, 32]  # half a step is not cut
    shapes = {name: _shape(model, name) for name in ("w1", "wa", "w2", "wb", "w3", "w4")}
    assert shapes == {
        "w1": [48, 3, 3, 3],
        "wa": [48],
        "w2": [48, 48, 1, 1],
        "wb": [48],
        "w3": [32, 48, 1, 1],
        "w4": [2048, 40],
    }
    with onnxruntime.session(model) as running:
        assert running.run(random_feeds(running, 0, {"N": 3}))["y"].shape == (3, 5)


def test_neurons_and_channels_behind_flatten(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    ctx = run_pass("prune-neurons{ratio=0.5 align=4},prune-channels{ratio=0.5 align=1}", model)
    assert _shape(model, "w4") == [16 * 64, 20]
    assert _shape(model, "w5") == [20, 5]
    assert [group["name"] for group in ctx.reports[0].details["groups"]] == ["g"]
    assert _details(ctx)["params_left"] < 0.5


def test_heads(weighted: Weighted) -> None:
    model = weighted(ATTENTION)
    ctx = run_pass("prune-heads{ratio=0.34}", model)
    assert _kept(ctx) == [4]
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert node.attributes["q_num_heads"].as_int() == 4
    assert _shape(model, "w4") == [16, 12]


def test_alignment_of_the_target(weighted: Weighted) -> None:
    for isa, kept in (({"avx512", "sse4.1"}, [48, 32]), ({"sse4.1"}, [56, 24])):
        model = weighted(NETWORK)
        target = Target("cpu", "CPUExecutionProvider", frozenset(isa), 21, ())
        ctx = run_pass("prune-channels{ratio=0.15}", model, target=target)
        assert _kept(ctx) == kept


def test_the_least_important_go(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    weights = model.graph.initializers["w4"].const_value
    assert weights is not None
    array = weights.numpy().copy()
    array[:, 7:27] *= 1e-3
    model.graph.initializers["w4"].const_value = ir.tensor(array, name="w4")
    run_pass("prune-neurons{ratio=0.5 align=1 criterion=l1}", model)
    left = model.graph.initializers["w4"].const_value
    assert left is not None
    np.testing.assert_array_equal(left.numpy(), np.delete(array, np.s_[7:27], 1))


def _samples() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    for _ in range(6):
        yield {"x": rng.standard_normal((2, 4)).astype(np.float32)}


def test_activations_decide(weighted: Weighted) -> None:
    """Neurons that never fire go first, however large their weights."""
    model = weighted(
        "g (float[N,4] x, float[4,8] w1, float[8] wb, float[8,5] w2) => (float[N,5] y)"
        "{ a = Gemm(x, w1, wb)  r = Relu(a)  y = MatMul(r, w2) }"
    )
    bias = np.zeros(8, np.float32)
    bias[[1, 4]] = -1000
    model.graph.initializers["wb"].const_value = ir.tensor(bias, name="wb")
    source = CalibrationSource.from_iterable(_samples, model.graph.inputs)
    with onnxruntime.session(model) as running:
        feeds = next(_samples())
        before = running.run(feeds)["y"]
    run_pass("prune-neurons{ratio=0.25 align=1 criterion=activation}", model, calibration=source)
    assert _shape(model, "w2") == [6, 5]
    with onnxruntime.session(model) as running:
        np.testing.assert_allclose(running.run(feeds)["y"], before, rtol=1e-5, atol=1e-6)


def test_activations_need_samples(weighted: Weighted) -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        run_pass("prune-channels{criterion=activation}", weighted(NETWORK))


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("goal", ["flops", "params"])
@pytest.mark.parametrize("budget", [0.8, 0.4])
def test_budgets_are_met_closely(weighted: Weighted, goal: str, scope: str, budget: float) -> None:
    model = weighted(NETWORK)
    options = f"{goal}={budget} scope={scope} align=1"
    text = f"prune-neurons{{ratio=0.7 align=1}},prune-channels{{{options}}}"
    original = model.clone()
    ctx = run_pass(text, model)
    left = _details(ctx)[f"{goal}_left"]
    assert budget - 0.06 < left <= budget
    if goal == "flops":
        neurons = ctx.reports[0].details["flops_left"]
        assert left * neurons == pytest.approx(_flops(model) / _flops(original), rel=1e-6)


def _flops(model: ir.Model) -> int:
    infer_shapes(model)
    sizes = Sizes(model)
    return sum(flops(node, sizes) for node in model.graph)


def test_flops_are_two_for_each_product(weighted: Weighted) -> None:
    model = weighted(
        "g (float[N,4,H,W] x, float[8,2,3,3] w1, float[8,6] w2) => (float[N,6] y)"
        "{ c = Conv<group=2, strides=[2,2]>(x, w1)  p = GlobalAveragePool(c)  f = Flatten(p)"
        " y = MatMul(f, w2) }"
    )
    infer_shapes(model)
    sizes = Sizes(model, {"N": 2, "H": 9, "W": 7})
    counts = [flops(node, sizes) for node in model.graph]
    assert counts == [2 * 2 * 8 * 4 * 3 * 2 * 3 * 3, 0, 0, 2 * 2 * 8 * 6]


def test_a_budget_that_cannot_be_met(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    with pytest.raises(BudgetError, match=r"cannot be met: 0\.\d+ is the least") as error:
        run_pass("prune-channels{flops=0.001}", model)
    assert error.value.exit_code == 4
    ctx = run_pass("prune-channels{flops=0.001 align=8 best-effort=true}", weighted(NETWORK))
    assert _kept(ctx) == [8, 8]
    assert "cannot be met" in ctx.warnings[0]


def test_no_layer_is_emptied(weighted: Weighted) -> None:
    assert _kept(run_pass("prune-channels{ratio=1 align=1}", weighted(NETWORK))) == [1, 1]
    text = "prune-channels{ratio=1 align=1 scope=global}"
    assert _kept(run_pass(text, weighted(NETWORK))) == [1, 1]


def test_too_few_for_the_alignment(weighted: Weighted) -> None:
    ctx = run_pass("prune-channels{align=64}", weighted(NETWORK))
    assert refusals(ctx)["prune-channels"] == {"too few channels for the alignment": 2}
    assert rewrites(ctx) == {}


def test_reasons_are_reported(weighted: Weighted) -> None:
    ctx = run_pass("prune-neurons{align=1}", weighted(NETWORK))
    assert refusals(ctx)["prune-neurons"] == {"an output of the model": 1}
    ctx = run_pass("prune-heads", weighted(NETWORK))
    assert ctx.warnings == ["prune-heads: nothing to prune: there are no heads to cut"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-channels{ratio=1.5}", "outside"),
        ("prune-channels{ratio=-0.1}", "outside"),
        ("prune-channels{flops=2}", "outside"),
        ("prune-channels{flops=0.5 params=0.5}", "exclude each other"),
        ("prune-channels{align=12}", "is not one of"),
        ("prune-channels{exclude=layer*}", "matches no node or weight"),
    ],
)
def test_bad_options(weighted: Weighted, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_pass(text, weighted(NETWORK))


def test_excluded_layers_keep_all_that_is_coupled_with_them(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    ctx = run_pass("prune-channels{exclude=c2 align=1 ratio=0.5}", model)
    assert _shape(model, "w1")[0] == 64
    assert _shape(model, "w3") == [16, 64, 1, 1]
    assert refusals(ctx)["prune-channels"]["excluded"] == 1


def test_quantized_models_are_refused(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    run_pass("quant-dynamic", model)
    before = ir.to_onnx_text(model)
    ctx = run_pass("prune-channels", model)
    assert ir.to_onnx_text(model) == before
    assert "prune before quantizing" in ctx.warnings[-1]


@pytest.mark.parametrize("text", ["prune-channels,fuse,quant", "fuse,prune-channels,quant"])
def test_both_orders_work(weighted: Weighted, text: str) -> None:
    model = weighted(NETWORK)
    run_pass(text.replace("quant", "quant-dynamic"), model)
    with onnxruntime.session(model) as running:
        assert running.run(random_feeds(running, 0, {"N": 2}))["y"].shape == (2, 5)


def test_equal_biases_of_two_layers_do_not_couple_them(weighted: Weighted) -> None:
    text = (
        "g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8] wb, float[8,8,1,1] w2,"
        " float[4,8,1,1] w3) => (float[N,4,8,8] y)"
        "{ a = Conv(x, w1, wb)  r = Relu(a)  b = Conv(r, w2, wb)  s = Relu(b)  y = Conv(s, w3) }"
    )
    model = weighted(text)
    assert len(_kept(run_pass("prune-channels{ratio=0.5 align=1}", model))) == 2
    assert _shape(model, "w2") == [4, 4, 1, 1]
    model = weighted(text)
    run_pass("prune-channels{ratio=0 align=1}", model)
    assert sorted(model.graph.initializers) == ["w1", "w2", "w3", "wb"]


def test_bisect_limit_cuts_that_many_groups(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    run_pass("prune-channels{ratio=0.5 align=1}", model, limit=1)
    assert _shape(model, "w1")[0] == 32
    assert _shape(model, "w3")[0] == 32


def test_the_same_twice(weighted: Weighted) -> None:
    texts = []
    for _ in range(2):
        model = weighted(NETWORK)
        run_pass("prune-channels{criterion=random ratio=0.3},prune-neurons{scope=global}", model)
        texts.append(ir.to_proto(model).SerializeToString())
    assert texts[0] == texts[1]
