# SPDX-License-Identifier: Apache-2.0
"""Transposes end where they move least; numbers stay, and no Transpose is added.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.layout import Layout
from burnish.testing import (
    assert_refuses,
    assert_same_outputs,
    parse,
    refusals,
    rewrites,
    run_pass,
)

NHWC, NCHW = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def _run(model: ir.Model) -> ir.Model:
    original = model.clone()
    run_pass(Layout(), model)
    assert_same_outputs(original, model)
    return model


# One operator between a Transpose and its undoing: the operator runs where the Transposes were.
_BETWEEN = {
    "Relu": "b = Relu(a)",
    "Cast": "h = Cast<to=10>(a) b = Cast<to=1>(h)",
    "Clip": "b = Clip(a, low, high)",
    "Gelu": "b = Gelu(a)",
    "Add": "b = Add(a, c)",
    "Add of one number": "b = Add(low, a)",
    "Add of two": "z = Exp(a) b = Add(a, z)",
    "Add of one a pixel": "m = ReduceMax<keepdims=1>(a, last) b = Sub(a, m)",
    "Where": "t = Greater(a, c) b = Where(t, a, low)",
    "PRelu": "b = PRelu(a, c)",
    "Concat": "b = Concat<axis=-1>(a, a, map)",
    "Split": "s, t = Split<axis=1, num_outputs=2>(a) b = Mul(s, t)",
    "Slice": "b = Slice(a, one, two, last)",
    "Slice all": "b = Slice(a, zeros, fours)",
    "Slice in int32": "b = Slice(a, begin, end)",
    "Pad": "b = Pad(a, pads, high)",
    "Pad axes": 'b = Pad<mode="reflect">(a, pair, high, last)',
    "ReduceMean": "b = ReduceMean(a, last)",
    "ReduceSum": "b = ReduceSum(a, first2)",
    "ArgMax": "i = ArgMax<axis=3>(a) b = Cast<to=1>(i)",
    "TopK": "b, i = TopK<axis=1>(a, two)",
    "Gather": "b = Gather<axis=2>(a, indices)",
    "Quantize": "q = QuantizeLinear(a, high) b = DequantizeLinear(q, high)",
    "Quantize channels": "q = QuantizeLinear<axis=-1>(a, scales)"
    " b = DequantizeLinear<axis=3>(q, scales)",
    "Unsqueeze": "u = Unsqueeze(a, last) b = Squeeze(u, last)",
    "LogSoftmax": "b = LogSoftmax<axis=1>(a)",
}
_CONSTANTS = (
    "float[3] c = {1.0, -2.0, 0.5}, float low = {-0.5}, float high = {0.75}, "
    "int64[1] last = {-1}, int64[2] first2 = {1, 2}, int64[1] one = {1}, int64[1] two = {2}, "
    "int64[4] zeros = {0, 0, 1, 0}, int64[4] fours = {4, 4, 4, 4}, "
    "int32[2] begin = {0, 1}, int32[2] end = {1, 4}, "
    "int64[8] pads = {0, 1, 2, 3, 0, 0, 1, 2}, int64[2] pair = {1, 1}, "
    "int64[3] indices = {1, 3, 0}, float[3] scales = {0.1, 0.2, 0.3}, "
    f"float[1,4,4,1] map = {{{', '.join(str(i / 8) for i in range(16))}}}"
)


@pytest.mark.parametrize("between", _BETWEEN.values(), ids=_BETWEEN)
def test_transposes_around_an_operator_cancel(between: str) -> None:
    model = _run(
        parse(
            f"g (float[1,3,4,4] x) => (float[] y) <{_CONSTANTS}>"
            f"{{ a = {NHWC}(x) {between} y = {NCHW}(b) }}"
        )
    )
    assert "Transpose" not in _ops(model)


# What removes axes, or has none left to move: the Transpose before it goes.
_AFTER = {
    "global average": "y = ReduceMean<keepdims=0>(a, first2)",
    "one channel": "y = ReduceMax<keepdims=0>(a, all_but_batch)",
    "everything": "y = ReduceSum(a)",
    "one pixel": "h = Gather<axis=1>(a, zero) y = Gather<axis=1>(h, zero)",
    "channel of each": "h = ArgMax<axis=-1, keepdims=0>(a) y = Cast<to=1>(h)",
}


@pytest.mark.parametrize("after", _AFTER.values(), ids=_AFTER)
def test_a_transpose_before_what_removes_axes_goes(after: str) -> None:
    model = _run(
        parse(
            "g (float[2,3,4,4] x) => (float[] y) <int64[2] first2 = {1, 2}, int64 zero = {0},"
            f"int64[3] all_but_batch = {{1, 2, 3}}> {{ a = {NHWC}(x) {after} }}"
        )
    )
    assert "Transpose" not in _ops(model)


def test_resizing_goes_to_the_last_axes_only() -> None:
    resize = 'Resize<mode="nearest">(a, , s)'
    text = (
        "g (float[1,3,4,4] x) => (float[] y) <float[4] s = {1.0, %s, 2.0, %s}>"
        "{ a = %s(x) b = %s y = %s(b) }"
    )
    assert "Transpose" not in _ops(_run(parse(text % ("2.0", "1.0", NHWC, resize, NCHW))))
    slow = parse(text % ("1.0", "2.0", NCHW, resize, NHWC))
    assert_refuses(Layout(), slow, "the runtime resizes any but the last two axes slowly")


def test_an_unknown_size_is_asked_of_the_other_form() -> None:
    model = _run(
        parse(
            "g (float[N,3,H,W] x) => (float[] y) <float[3] c = {1.0, 2.0, 3.0}, int64 two = {2},"
            "int64[1] one = {1}>"
            f"{{ a = {NHWC}(x) b = Add(a, c) s = Shape(b) w = Gather(s, two) v = Cast<to=1>(w)"
            f" d = Mul(b, v) y = {NCHW}(d) }}"
        )
    )
    assert "Transpose" not in _ops(model)


_CONV = "float[3,3,1,1] k = {1.0,0.5,0.0,0.0,1.0,0.5,0.5,0.0,1.0}, float[3] c = {1.0, 2.0, 3.0}"


def test_a_residual_network_keeps_the_transposes_of_its_ends() -> None:
    """Each Transpose alone cannot go: both summands are wanted in the other form first."""
    block = (
        f"p{{0}} = {NCHW}(x{{0}}) q{{0}} = Conv(p{{0}}, k) r{{0}} = {NHWC}(q{{0}})"
        "s{0} = Add(r{0}, c) t{0} = Add(s{0}, x{0}) x{1} = Relu(t{0}) "
    )
    body = "".join(block.format(i, i + 1) for i in range(6))
    model = parse(f"g (float[1,8,8,3] x0) => (float[] y) <{_CONV}> {{ {body} y = Identity(x6) }}")
    _run(model)
    assert _ops(model).count("Transpose") == 2
    assert (_ops(model)[0], _ops(model)[-1]) == ("Transpose", "Transpose")


def test_fewest_bytes_are_moved() -> None:
    """Bytes of an image before it is cast; numbers of one channel behind the reduction."""
    model = _run(
        parse(
            f"g (uint8[1,8,8,3] x) => (float[1,8,8,1] y) <{_CONV}, int64[1] channel = {{1}}>"
            f"{{ f = Cast<to=1>(x) p = {NCHW}(f) q = Conv(p, k) m = ReduceMax(q, channel)"
            f" r = {NHWC}(m) y = Sigmoid(r) }}"
        )
    )
    assert _ops(model) == ["Transpose", "Cast", "Conv", "ReduceMax", "Sigmoid", "Reshape"]


_PAIR = (
    "g (float[1,8,8,3] x) => (float[] y)"
    f"<{_CONV}, float s = {{0.05}}, uint8 u = {{128}}, int8 i = {{1}}>"
)


def test_the_numbers_between_q_and_dq_are_moved_as_bytes() -> None:
    model = parse(
        f"{_PAIR} {{ q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) p = {NCHW}(d)"
        " y = MaxPool<kernel_shape=[2,2]>(p) }"
    )
    assert _ops(_run(model)) == ["QuantizeLinear", "Transpose", "DequantizeLinear", "MaxPool"]


def test_a_signed_pair_of_q_and_dq_stays_together() -> None:
    """The runtime takes a product in integers only if it can make the pair unsigned."""
    model = parse(
        f"{_PAIR} {{ q = QuantizeLinear(x, s, i) t = {NCHW}(q) d = DequantizeLinear(t, s, i)"
        " y = MaxPool<kernel_shape=[2,2]>(d) }"
    )
    assert _ops(_run(model)) == ["Transpose", "QuantizeLinear", "DequantizeLinear", "MaxPool"]


def test_quantized_convolutions_keep_the_transposes_that_the_runtime_takes_in() -> None:
    model = parse(
        f"{_PAIR} {{ q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) p = {NCHW}(d)"
        " y = Conv(p, k) }"
    )
    assert_refuses(Layout(), model, "the runtime runs quantized convolutions with channels last")


def test_a_dequantized_constant_is_stored_in_the_other_order() -> None:
    numbers = ", ".join(str(i % 16) for i in range(2 * 3 * 5))
    model = parse(
        f"g (float[1,2,4,3] x) => (float[] y) <int8[1,2,5,3] w = {{{numbers}}}, float s = {{0.05}}>"
        "{ d = DequantizeLinear(w, s) t = Transpose<perm=[0,1,3,2]>(d) y = MatMul(x, t) }"
    )
    assert _ops(_run(model)) == ["DequantizeLinear", "MatMul"]


def test_batches_of_a_product_move() -> None:
    model = parse(
        "g (float[2,3,4,5] x, float[5,5] w) => (float[] y) <float[5] s = {1.0,2.0,1.0,0.5,1.0}>"
        "{ a = Transpose<perm=[0,2,1,3]>(x) m = MatMul(a, w) n = LayerNormalization<axis=-1>(m, s)"
        "  y = Transpose<perm=[0,2,1,3]>(n) }"
    )
    assert _ops(_run(model)) == ["MatMul", "LayerNormalization"]


def test_a_scale_of_axes_that_are_not_normalized_stays() -> None:
    model = parse(
        "g (float[2,3,4,5] x) => (float[] y) <float[3,1] s = {1.0,2.0,3.0}>"
        "{ a = Transpose<perm=[0,2,1,3]>(x) n = LayerNormalization<axis=-1>(a, s)"
        "  y = Transpose<perm=[0,2,1,3]>(n) }"
    )
    assert_refuses(Layout(), model, "what it scales by has other axes too")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"y = {NHWC}(x)", "no other place is cheaper"),
        (f"a = {NHWC}(x) y = Softmax<axis=-1>(a)", "no other place is cheaper"),
        (f"a = {NHWC}(x) b = Squeeze(a) y = Relu(b)", "the axes are not constant"),
        (f"a = {NHWC}(x) y = Slice(a, i, i, i)", "the axes are not constant"),
        (f"a = {NHWC}(x) y = Pad(a, i)", "the padding is not constant"),
        (f"a = {NHWC}(x) y = ReduceSum(a, i)", "the axes are not constant"),
        (f"a = {NHWC}(x) y = Add(a, row)", "an operand of lower rank would need more axes"),
        (f"a = {NHWC}(x) y = LayerNormalization(a, row)", "the axes it normalizes would move"),
        (f"a = {NHWC}(x) y = MatMul(a, w)", "the axes of the product would move"),
        (f"a = {NHWC}(x) y = Gather(a, many)", "the indices have several axes"),
        (
            f"a = {NHWC}(x) b = Relu(a) y = Transpose<perm=[0,1,3,2]>(b)",
            "no other place is cheaper",
        ),
    ],
)
def test_it_is_left_with_a_reason(text: str, reason: str) -> None:
    model = parse(
        "g (float[2,3,4,5] x, int64[1] i, float[3] row, float[3,2] w, int64[2,2] many)"
        f" => (float[] y) {{ {text} }}"
    )
    assert_refuses(Layout(), model, reason)


def test_what_the_runtime_would_copy_counts() -> None:
    """A Softmax over another than the last axis is transposed by the runtime, back and forth."""
    signature = f"g (float[1,3,8,8] x) => (float[] y) <{_CONV}>"
    left = parse(f"{signature} {{ q = Conv(x, k) a = {NHWC}(q) y = Softmax(a) }}")
    assert_refuses(Layout(), left, "no other place is cheaper")
    model = parse(f"{signature} {{ a = {NHWC}(x) b = Softmax(a) y = {NCHW}(b) }}")
    assert _ops(_run(model)) == ["Softmax"]


def test_unknown_sizes_must_not_decide() -> None:
    """Cheaper only if N is large: the second summand is of another size."""
    model = parse(
        "g (float[N,64] x, float[64,64] z) => (float[64,64] y, float[64,N] t)"
        "{ a = Transpose(x) y = MatMul(a, x) b = Relu(a) t = Identity(b) }"
    )
    ctx = run_pass(Layout(), model.clone())
    assert "place-transposes" not in rewrites(ctx)


def test_names_of_outputs_and_of_what_stays_survive() -> None:
    model = parse(
        f"g (float[1,8,8,3] x) => (float[] y, float[] kept) <{_CONV}>"
        f"{{ p = {NCHW}(x) q = Conv(p, k) r = {NHWC}(q) s = Add(r, c) kept = Relu(s)"
        f" t = {NCHW}(s) y = Conv(t, k) }}"
    )
    _run(model)
    assert [value.name for value in model.graph.outputs] == ["y", "kept"]
    assert _ops(model).count("Transpose") == 2


def test_it_is_done_once() -> None:
    body = f"p = {NCHW}(x) q = Conv(p, k) r = {NHWC}(q) s = Add(r, c) y = Relu(s)"
    model = _run(parse(f"g (float[N,H,W,3] x) => (float[] y) <{_CONV}> {{ {body} }}"))
    assert _ops(model) == ["Transpose", "Conv", "Add", "Relu", "Transpose"]
    assert not rewrites(run_pass(Layout(), model))


def test_regions_of_subgraphs_are_placed_too() -> None:
    model = parse(
        "g (float[1,3,4,4] x, bool c) => (float[1,3,4,4] y) { y = If(c) <"
        f"then_branch = one () => (float[1,3,4,4] u) {{ a = {NHWC}(x) b = Relu(a) u = {NCHW}(b) }},"
        "else_branch = two () => (float[1,3,4,4] v) { v = Neg(x) }> }"
    )
    original = model.clone()
    run_pass(Layout(), model)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)}
    for choice in (True, False):
        assert_same_outputs(original, model, feeds=feeds | {"c": np.array(choice)})
    assert "Transpose" not in [node.op_type for node in model.graph.all_nodes()]


@pytest.mark.parametrize("seed", range(30))
def test_random_regions_keep_numbers_and_never_move_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines, values = [], [("x", 0)]  # name, form: 0 as the input, 1 the other
    for index in range(int(rng.integers(4, 25))):
        name, form = values[int(rng.integers(len(values)))]
        alike = [other for other, its in values if its == form]
        other = alike[int(rng.integers(len(alike)))]
        kind = rng.choice(
            ["switch", "unary", "add", "bias", "fixed"], p=[0.35, 0.2, 0.2, 0.1, 0.15]
        )
        made = f"v{index}"
        if kind == "switch":
            lines.append(f"{made} = {(NCHW, NHWC)[form]}({name})")
            form = 1 - form
        elif kind == "fixed":  # stays, whatever is around it
            lines.append(f"{made} = CumSum({name}, axis)")
        else:
            call = {"unary": f"Sigmoid({name})", "add": f"Add({name}, {other})"}
            lines.append(f"{made} = {call.get(kind, f'Mul({name}, c{form})')}")
        values.append((made, form))
    outputs = [name for name, _ in values[-2:]]
    identities = " ".join(f"y{i} = Identity({name})" for i, name in enumerate(outputs))
    model = parse(
        f"g (float[1,3,5,2] x) => ({', '.join(f'float[] y{i}' for i in range(len(outputs)))})"
        "<float[2] c0 = {0.5, 2.0}, float[2,1,1] c1 = {1.5, 0.5}, int64 axis = {2}>"
        f"{{ {' '.join(lines)} {identities} }}"
    )
    run_pass("cleanup", model)
    before = _ops(model)
    _run(model)
    moved = [_ops(model).count("Transpose"), before.count("Transpose")]
    assert moved[0] <= moved[1]


def test_a_long_chain_keeps_one_transpose_at_each_end() -> None:
    blocks = 200
    block = (
        f"p{{0}} = {NCHW}(x{{0}}) q{{0}} = Conv(p{{0}}, k) r{{0}} = {NHWC}(q{{0}})"
        "s{0} = Add(r{0}, x{0}) x{1} = Relu(s{0}) "
    )
    body = "".join(block.format(i, i + 1) for i in range(blocks))
    model = parse(
        f"g (float[1,8,8,3] x0) => (float[] y) <{_CONV}> {{ {body} y = Identity(x{blocks}) }}"
    )
    run_pass("static-shapes", model)
    run_pass(Layout(), model)
    assert _ops(model).count("Transpose") == 2


def test_reasons_are_counted_once_a_place() -> None:
    model = parse(
        f"g (float[1,3,4,4] x, float[3,2] w) => (float[] y) {{ a = {NHWC}(x) y = MatMul(a, w) }}"
    )
    found = refusals(run_pass(Layout(), model))["place-transposes"]
    assert found == {"the axes of the product would move": 1, "no other place is cheaper": 1}


def test_a_region_that_begins_at_what_one_before_it_made_anew() -> None:
    """Queries, keys and values as Qwen2-VL splits them: a Squeeze ends the one region."""
    model = parse(
        "g (float[N,3,2,5] x) => (y, z) <int64[1] first = {0}> {"
        " a = Transpose<perm=[1,0,2,3]>(x) p, q, r = Split<axis=0, num_outputs=3>(a)"
        " s = Squeeze(p, first) t = Squeeze(q, first) u = Relu(s) v = Neg(s) w = Add(u, v)"
        " y = Transpose<perm=[1,0,2]>(w) h = Squeeze(r, first) z = Mul(t, h) }"
    )
    assert "Squeeze" in _ops(_run(model))
