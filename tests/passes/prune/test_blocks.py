# SPDX-License-Identifier: Apache-2.0
"""Removing residual blocks: which there are, which go, and that the rest computes the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.api import optimize
from burnish.errors import BudgetError, InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.prune.residual import find_blocks
from burnish.passes.shapes import infer_shapes
from burnish.testing import (
    assert_same_outputs,
    refusals,
    rewrites,
    run_pass,
    structural_difference,
)

Weighted = Callable[..., ir.Model]

_HEAD = (
    "g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] wa, float[8,8,3,3] w2, float[8,8,3,3] w3,"
    " float[8,8,3,3] w4, float[8,8,3,3] w5, float[16,8,3,3] w6, float[16,16,3,3] w7,"
    " float[16,8,1,1] w8, float[16,5] w9) => (float[N,5] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w1, wa)  r0 = Relu(c)"
)
_FIRST = (
    " a1 = Conv<pads=[1,1,1,1]>(r0, w2)  a2 = Relu(a1)  a3 = Conv<pads=[1,1,1,1]>(a2, w3)"
    " j1 = Add(a3, r0)"
)
_SECOND = (
    " b1 = Conv<pads=[1,1,1,1]>(r1, w4)  b2 = Relu(b1)  b3 = Conv<pads=[1,1,1,1]>(b2, w5)"
    " j2 = Sum(r1, b3)"
)
_TAIL = (
    " d1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r2, w6)  d2 = Relu(d1)"
    " d3 = Conv<pads=[1,1,1,1]>(d2, w7)  d4 = Conv<strides=[2,2]>(r2, w8)  j3 = Add(d3, d4)"
    " r3 = Relu(j3)  p = GlobalAveragePool(r3)  f = Flatten(p)  y = MatMul(f, w9) }"
)
NETWORK = f"{_HEAD} {_FIRST} r1 = Relu(j1) {_SECOND} r2 = Relu(j2) {_TAIL}"
WITHOUT_FIRST = f"{_HEAD} r1 = Relu(r0) {_SECOND} r2 = Relu(j2) {_TAIL}"
WITHOUT_SECOND = f"{_HEAD} {_FIRST} r1 = Relu(j1) r2 = Relu(r1) {_TAIL}"

# Attention that reads a mask and the sizes of its input, then a feed-forward part; norms behind.
TRANSFORMER = (
    "g (int64[N,T] ids, int64[N,T] mask, float[20,8] w0, float[8,8] w1, float[8,8] w2,"
    " float[8,8] w3, float[8,8] w4, float[8] wa, float[8] wb, float[8,16] w5, float[16,8] w6)"
    " => (float[N,T,8] y)"
    "{ one = Constant<value_float=1.0>()  low = Constant<value_float=-10000.0>()"
    " axis = Constant<value_ints=[1]>()  e = Gather(w0, ids)  kept = Cast<to=1>(mask)"
    " not = Sub(one, kept)  hidden = Mul(not, low)  hide = Unsqueeze(hidden, axis)"
    " q = MatMul(e, w1)  k = MatMul(e, w2)  v = MatMul(e, w3)  kt = Transpose<perm=[0,2,1]>(k)"
    " s0 = MatMul(q, kt)  s1 = Add(s0, hide)  s = Softmax(s1)  o0 = MatMul(s, v)"
    " sizes = Shape(q)  o1 = Reshape(o0, sizes)  o = MatMul(o1, w4)  j1 = Add(o, e)"
    " n1 = LayerNormalization(j1, wa)  h0 = MatMul(n1, w5)  h1 = Relu(h0)  h = MatMul(h1, w6)"
    " j2 = Add(n1, h)  y = LayerNormalization(j2, wb) }"
)


def _scaled(model: ir.Model, **factors: float) -> ir.Model:
    """Scale weights: a block whose last one is small is missed little."""
    for name, factor in factors.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy() * np.float32(factor)
        value.const_value = ir.tensor(array, name=name)
    return model


def _with_weights_of(model: ir.Model, other: ir.Model) -> ir.Model:
    for name, value in model.graph.initializers.items():
        value.const_value = other.graph.initializers[name].const_value
    return model


@pytest.fixture
def network(weighted: Weighted) -> ir.Model:
    return _scaled(weighted(NETWORK), w2=0.3, w3=0.3, w4=0.3, w5=0.03)


def _images(count: int = 12) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    for _ in range(count):
        yield {"x": rng.standard_normal((8, 3, 8, 8)).astype(np.float32)}


def _texts() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    for _ in range(12):
        mask = np.ones((2, 6), np.int64)
        mask[1, 4:] = 0
        yield {"ids": rng.integers(0, 20, (2, 6)), "mask": mask}


def _run(model: ir.Model, options: str = "", **more: Any) -> PassContext:
    texts = any(value.name == "ids" for value in model.graph.inputs)
    source = CalibrationSource.from_iterable(_texts if texts else _images, model.graph.inputs)
    return run_pass(f"prune-blocks{{{options}}}", model, calibration=source, **more)


def _removed(ctx: PassContext) -> list[str]:
    blocks = [each for each in ctx.reports[-1].details["blocks"] if each["removed"]]
    return [each["name"] for each in sorted(blocks, key=lambda each: int(each["removed"]))]


# --- which go -------------------------------------------------------------------------------------


def test_the_block_that_is_missed_least_goes(network: ir.Model, weighted: Weighted) -> None:
    by_hand = _with_weights_of(weighted(WITHOUT_SECOND), network)
    ctx = _run(network, "recover=false")
    assert rewrites(ctx) == {"prune-blocks": 1}
    first, second = ctx.reports[-1].details["blocks"]
    assert (first["name"], first["nodes"], first["removed"]) == ("j1", 3, None)
    assert (second["name"], second["nodes"], second["removed"]) == ("j2", 3, 1)
    assert 0 < second["error"] < first["error"]
    assert ctx.reports[-1].details["error"] == pytest.approx(second["error"])
    assert structural_difference(network, by_hand) is None
    assert_same_outputs(network, by_hand)
    assert not {"w4", "w5"} & set(network.graph.initializers)


def test_which_one_is_missed_is_measured(network: ir.Model, weighted: Weighted) -> None:
    _scaled(network, w3=0.01, w5=100)
    by_hand = _with_weights_of(weighted(WITHOUT_FIRST), network)
    ctx = _run(network, "recover=false")
    assert _removed(ctx) == ["j1"]
    assert structural_difference(network, by_hand) is None
    assert_same_outputs(network, by_hand)


def test_the_error_is_that_of_the_outputs(network: ir.Model) -> None:
    """On held-out samples, by the standard deviation of the outputs."""
    from burnish.backends import onnxruntime
    from burnish.passes.reconstruct.observe import is_held_out

    original = network.clone()
    ctx = _run(network, "count=2 recover=false")
    feeds = [each for at, each in enumerate(_images()) if is_held_out(at)]
    with onnxruntime.session(original) as old, onnxruntime.session(network) as new:
        wanted = np.stack([old.run(each)["y"] for each in feeds])
        found = np.stack([new.run(each)["y"] for each in feeds])
    error = np.sqrt(np.square(found - wanted).mean()) / wanted.std()
    assert ctx.reports[-1].details["error"] == pytest.approx(error, rel=1e-4)


def test_parts_of_transformers(weighted: Weighted) -> None:
    model = _scaled(weighted(TRANSFORMER), w4=1e-3)
    ctx = _run(model, "recover=false")
    assert [each["name"] for each in ctx.reports[-1].details["blocks"]] == ["j1", "j2"]
    assert _removed(ctx) == ["j1"]
    assert "Softmax" not in {node.op_type for node in model.graph}
    assert sorted(model.graph.initializers) == ["w0", "w5", "w6", "wa", "wb"]
    ctx = _run(model, "recover=false")
    assert [node.op_type for node in model.graph] == ["Gather", *["LayerNormalization"] * 2]


def test_a_block_inside_of_another(weighted: Weighted) -> None:
    text = (
        "g (float[N,3,8,8] x, float[3,3,1,1] w1, float[3,3,1,1] w2, float[3,3,1,1] w3) =>"
        "(float[N,3,8,8] y) { a = Conv(x, w1)  b = Conv(a, w2)  c = Relu(b)  d = Add(a, c)"
        " e = Conv(d, w3)  y = Add(x, e) }"
    )
    model = _scaled(weighted(text), w3=1e-3)  # the outer one is missed less
    ctx = _run(model, "recover=false")
    assert _removed(ctx) == ["d"]  # but both would go with it
    assert [node.op_type for node in model.graph] == ["Conv", "Conv", "Add"]
    model = weighted(text)
    ctx = _run(model, "count=2 recover=false")
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert ctx.reports[-1].details["flops_left"] == 0


def test_what_stays_is_fitted(network: ir.Model) -> None:
    plain = _run(network.clone(), "recover=false").reports[-1].details
    details = _run(network).reports[-1].details
    assert details["error"] == pytest.approx(plain["error"])
    assert details["recovered"] < 0.8 * details["error"]
    assert details["recovery"]["total"]["changed"] > 0


# --- which do not ---------------------------------------------------------------------------------

_IMAGE = "float[N,3,8,8] x, float[3,3,1,1] w1, float[3,3,1,1] w2"
REFUSED = {
    "shape": (
        f"g ({_IMAGE}, float[4,3,1,1] w3, float[4,3,1,1] w4) => (float[N,4,8,8] y)"
        "{ a = Conv(x, w3)  b = Conv(x, w4)  y = Add(a, b) }",
        "the shape changes in between",
    ),
    "broadcast": (
        "g (float[N,1,8,8] x, float[4,1,1,1] w1) => (float[N,4,8,8] y)"
        "{ a = Conv(x, w1)  y = Add(x, a) }",
        "the shape changes in between",
    ),
    "apart": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y) {{ a = Conv(x, w1)  b = Conv(x, w2)  y = Add(a, b) }}",
        "neither side is computed from the other",
    ),
    "elsewhere": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y, float[N,3,8,8] z)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  y = Add(x, b)  z = Relu(a) }",
        "the branch is read elsewhere",
    ),
    "an output": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y, float[N,3,8,8] a)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  y = Add(x, b) }",
        "the branch is read elsewhere",
    ),
    "its shape": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  c = Add(x, b)  s = Shape(a)  y = Reshape(c, s) }",
        "the branch is read elsewhere",
    ),
    "another input": (
        f"g ({_IMAGE}, float[N,3,8,8] z) => (float[N,3,8,8] y)"
        "{ a = Conv(x, w1)  b = Mul(a, z)  y = Add(x, b) }",
        "the branch reads something else, too",
    ),
    "an earlier value": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  c = Mul(b, x)  y = Add(a, c) }",
        "the branch reads something else, too",
    ),
    "no layer": (
        f"g ({_IMAGE}) => (float[N,3,8,8] y) {{ a = Conv(x, w1)  b = Sigmoid(a)  y = Add(a, b) }}",
        "there is no layer in the branch",
    ),
    "fused": (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        "g (float[N,4] x, float[4,4] w1, float[4] w2) => (float[N,4] y)"
        "{ a = MatMul(x, w1)  y = com.microsoft.SkipLayerNormalization(a, x, w2) }",
        "its addition is fused: prune blocks before fusing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_block_stays(name: str, weighted: Weighted) -> None:
    text, reason = REFUSED[name]
    model = weighted(text)
    before = model.clone()
    ctx = run_pass("prune-blocks", model, calibration=_of(model))
    assert refusals(ctx) == {"prune-blocks": {reason: 1}}
    assert ctx.warnings == ["prune-blocks: nothing to prune: there are no residual blocks"]
    assert structural_difference(model, before) is None


def _of(model: ir.Model) -> CalibrationSource:
    from burnish.backends.feeds import random_feeds

    feeds = [random_feeds(model, seed) for seed in range(4)]
    return CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)


def test_projected_shortcuts_of_a_network(network: ir.Model) -> None:
    ctx = _run(network)
    assert refusals(ctx) == {"prune-blocks": {"the shape changes in between": 1}}


def test_excluded_by_the_name_of_a_weight(network: ir.Model) -> None:
    ctx = _run(network, "exclude=w5")
    assert _removed(ctx) == ["j1"]
    assert refusals(ctx)["prune-blocks"]["excluded"] == 1
    with pytest.raises(InputError, match="matches no node or weight"):
        _run(network, "exclude=layer*")


def test_samples_are_needed(network: ir.Model) -> None:
    with pytest.raises(InputError, match="prune-blocks needs calibration data") as error:
        run_pass("prune-blocks", network)
    assert error.value.exit_code == 2


def test_quantized_models_are_refused(weighted: Weighted) -> None:
    model = weighted(
        "g (float[N,4] x, float[4,4] w1) => (float[N,4] y)"
        "{ s = Constant<value_float=0.1>()  q = QuantizeLinear(x, s)  d = DequantizeLinear(q, s)"
        " a = MatMul(d, w1)  y = Add(a, d) }"
    )
    ctx = run_pass("prune-blocks", model, calibration=_of(model))
    assert rewrites(ctx) == {}
    assert "prune before quantizing" in ctx.warnings[-1]


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ("count=0", []),
        ("count=2", ["j2", "j1"]),
        ("flops=0.99", ["j2"]),
        ("params=0.7", ["j2", "j1"]),
    ],
)
def test_budgets(network: ir.Model, options: str, gone: list[str]) -> None:
    ctx = _run(network, f"{options} recover=false")
    assert _removed(ctx) == gone
    goal, _, budget = options.partition("=")
    if goal != "count":
        assert ctx.reports[-1].details[f"{goal}_left"] <= float(budget)


def test_what_a_later_one_makes_needless_is_given_back(weighted: Weighted) -> None:
    """The first to go saves too little; the second alone is enough."""
    model = weighted(
        "g (float[N,3,8,8] x, float[2,3,1,1] w1, float[3,2,1,1] w2, float[40,3,1,1] w3,"
        " float[3,40,1,1] w4) => (float[N,3,8,8] y)"
        "{ a = Conv(x, w1)  b = Conv(a, w2)  c = Add(x, b)  d = Conv(c, w3)  e = Conv(d, w4)"
        " y = Add(c, e) }"
    )
    _scaled(model, w2=1e-4, w4=1e-1)
    ctx = _run(model, "flops=0.5 recover=false")
    assert [each["removed"] for each in ctx.reports[-1].details["blocks"]] == [None, 1]


@pytest.mark.parametrize(
    ("options", "reached"),
    [("count=3", "2 is the most there is"), ("flops=0.1", r"0\.\d+ is the least there is")],
)
def test_a_budget_that_cannot_be_met(network: ir.Model, options: str, reached: str) -> None:
    before = network.clone()
    with pytest.raises(BudgetError, match=f"{options} cannot be met: {reached}") as error:
        _run(network, options)
    assert error.value.exit_code == 4
    assert structural_difference(network, before) is None
    ctx = _run(network, f"{options} best-effort=true")
    assert "cannot be met" in ctx.warnings[0]
    assert _removed(ctx) == ["j1", "j2"]


def test_several_goals_are_refused(network: ir.Model) -> None:
    with pytest.raises(InputError, match="'count' and 'flops' exclude each other"):
        _run(network, "count=1 flops=0.5")


def test_latency_is_measured(
    weighted: Weighted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    model = weighted(
        "g (float[N,48,24,24] x, float[48,48,3,3] w1, float[48,48,3,3] w2, float[48,48,3,3] w3,"
        " float[48,48,3,3] w4) => (float[N,48,24,24] y)"
        "{ a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2)"
        " d = Add(x, c)  e = Conv<pads=[1,1,1,1]>(d, w3)  f = Relu(e)"
        " h = Conv<pads=[1,1,1,1]>(f, w4)  y = Add(d, h) }"
    )
    _, report = optimize(
        model,
        "prune-blocks{latency=0.8 recover=false}",
        calibration=_of(model),
        verify="off",
        measure=True,
    )
    (blocks,) = (entry.details["blocks"] for entry in report.passes)
    assert sum(each["removed"] is not None for each in blocks) == 1
    questions = {each.question for each in report.decisions if each.rule == "latency"}
    assert questions == {"the model with 0 of 2 blocks", "the model with 1 of 2 blocks"}


# --- the machinery --------------------------------------------------------------------------------


def test_bisect_limit_removes_that_many(network: ir.Model) -> None:
    assert _removed(_run(network, "count=2", limit=1)) == ["j2"]


def test_the_same_twice(network: ir.Model) -> None:
    texts = []
    for _ in range(2):
        model = network.clone()
        _run(model, "count=2")
        texts.append(ir.to_proto(model).SerializeToString())
    assert texts[0] == texts[1]


def test_thousands_of_blocks_are_found_in_seconds(weighted: Weighted) -> None:
    lines = ["v0 = Conv(x, w)"]
    for at in range(2500):
        lines.append(f"a{at} = Conv(v{at}, w) b{at} = Relu(a{at}) c{at} = Conv(b{at}, w)")
        lines.append(f"v{at + 1} = Add(v{at}, c{at})")
    ends = "float[N,3,8,8] x, float[3,3,1,1] w) => (float[N,3,8,8] v2500)"
    model = weighted(f"g ({ends} {{ {' '.join(lines)} }}")
    for node in model.graph:
        node.outputs[0].shape = model.graph.inputs[0].shape
    started = time.process_time()
    found = find_blocks(model.graph, lambda node, reason: pytest.fail(reason))
    assert len(found) == 2500
    assert time.process_time() - started < 5


def test_shapes_that_are_not_known(weighted: Weighted) -> None:
    model = weighted(REFUSED["no layer"][0].replace("Sigmoid(a)", "Conv(a, w2)"))
    reasons: list[str] = []
    for node in model.graph:
        node.outputs[0].shape = None
    assert not find_blocks(model.graph, lambda node, reason: reasons.append(reason))
    assert reasons == ["its shape is not known"]
    infer_shapes(model)
    assert len(find_blocks(model.graph, lambda node, reason: reasons.append(reason))) == 1
