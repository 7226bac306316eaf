# SPDX-License-Identifier: Apache-2.0
"""LSTMs become the runtime's int8 form of them where that is faster."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.testing import parse, refusals, rewrites, run_pass

FEEDS = {"x": np.random.default_rng(1).normal(0, 1, (7, 2, 24)).astype(np.float32)}


def recurrent(
    units: int = 64, op: str = "LSTM", direction: str = "forward", gates: int = 4
) -> ir.Model:
    ways = 2 if direction == "bidirectional" else 1
    return parse(
        f"g (float[7,2,24] x) => (float[7,{ways},2,{units}] y, float[{ways},2,{units}] h) {{ "
        f'y, h = {op}<hidden_size = {units}, direction = "{direction}">(x, W, R, B) }}',
        **normal(
            W=(ways, gates * units, 24),
            R=(ways, gates * units, units),
            B=(ways, 2 * gates * units),
        ),
    )


def normal(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw small weights of these names and shapes."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.1, size).astype(np.float32) for name, size in shapes.items()}


def relative_error(old: ir.Model, new: ir.Model, output: str, **more: np.ndarray) -> float:
    """Return the norm of the difference of an output, as a share of that of the old one."""
    feeds = {**FEEDS, **more}
    with onnxruntime.session(old) as before, onnxruntime.session(new) as after:
        expected, found = (session.run(feeds)[output] for session in (before, after))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("options", ["", "{per_channel=false}"])
def test_an_lstm_computes_the_same_with_int8_weights(direction: str, options: str) -> None:
    model = recurrent(direction=direction)
    original = model.clone()
    ctx = run_pass("quant-dynamic" + options, model)
    assert rewrites(ctx) == {"quant-lstm": 1}
    assert [node.op_type for node in model.graph] == ["DynamicQuantizeLSTM"]
    assert sorted(model.graph.initializers) == [
        "B",
        *("R_int8", "R_scale", "R_zero_point", "W_int8", "W_scale", "W_zero_point"),
    ]
    for name in ("y", "h"):
        assert 0 < relative_error(original, model, name) < 0.02


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (recurrent(units=48), "few hidden units: int8 is no faster"),
        (recurrent(op="GRU", gates=3), "the target has no int8 form of GRU"),
    ],
)
def test_what_stays_float_says_why(model: ir.Model, reason: str) -> None:
    ctx = run_pass("quant-dynamic", model)
    assert refusals(ctx)["quant-lstm"] == {reason: 1}
    assert not rewrites(ctx)


def test_one_that_is_excluded_stays_float() -> None:
    ctx = run_pass('quant-dynamic{exclude="y"}', recurrent())
    assert refusals(ctx)["quant-lstm"] == {"excluded by name": 1}


def test_weights_that_are_no_constants_stay_float() -> None:
    model = parse(
        "g (float[7,2,24] x, float[1,256,24] W, float[1,256,64] R) => (float[7,1,2,64] y) "
        "{ y = LSTM<hidden_size = 64>(x, W, R) }"
    )
    ctx = run_pass("quant-dynamic", model)
    assert refusals(ctx)["quant-lstm"] == {"its weights are not constant": 1}


def test_only_the_last_state_is_used() -> None:
    """Outputs without a name stay without one."""
    model = recurrent()
    model.graph.outputs.pop(0)
    run_pass("dead-code", model)
    original = model.clone()
    assert rewrites(run_pass("quant-dynamic", model)) == {"quant-lstm": 1}
    assert 0 < relative_error(original, model, "h") < 0.02


def test_those_in_branches_get_names_that_are_free_everywhere() -> None:
    model = parse(
        "g (float[7,2,24] x, bool c) => (float[7,1,2,64] y) { W_int8 = Identity(c)  y = If(W_int8)<"
        "then_branch = t () => (float[7,1,2,64] o) { o = LSTM<hidden_size = 64>(x, W, R) }, "
        "else_branch = e () => (float[7,1,2,64] p) "
        "{ q = LSTM<hidden_size = 64>(x, W, R)  p = Neg(q) }> }",
        **normal(W=(1, 256, 24), R=(1, 256, 64)),
    )
    original = model.clone()
    assert rewrites(run_pass("quant-dynamic", model)) == {"quant-lstm": 2}
    assert not model.graph.initializers
    for branch in (True, False):
        assert 0 < relative_error(original, model, "y", c=np.array(branch)) < 0.02


def test_weights_that_several_read_are_quantized_once() -> None:
    """A decoder that was traced step by step is one operator a step, with the same weights."""
    model = recurrent()
    first = model.graph[0]
    again = ir.node(
        "LSTM", [*first.inputs, None, first.outputs[1]], {"hidden_size": 64}, num_outputs=2
    )
    for value, name, like in zip(again.outputs, ("y2", "h2"), first.outputs, strict=True):
        value.name, value.shape, value.type = name, like.shape, like.type
    model.graph.append(again)
    model.graph.outputs[:] = again.outputs
    original = model.clone()
    assert rewrites(run_pass("quant-dynamic", model)) == {"quant-lstm": 2}
    assert len(model.graph.initializers) == 7
    assert 0 < relative_error(original, model, "h2") < 0.02


def test_one_in_a_function_stays_float() -> None:
    model = parse(
        '<ir_version: 10, opset_import: ["" : 21, "f" : 1]> '
        "g (float[7,2,24] x, float[1,256,24] W, float[1,256,64] R) => (float[7,1,2,64] y) "
        '{ y = f.F(x, W, R) } <domain: "f", opset_import: ["" : 21]> '
        "F (x, w, r) => (y) { y = LSTM<hidden_size = 64>(x, w, r) }"
    )
    ctx = run_pass("quant-dynamic", model)
    assert refusals(ctx)["quant-lstm"] == {"inside a function of the model": 1}
