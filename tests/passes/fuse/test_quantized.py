# SPDX-License-Identifier: Apache-2.0
"""Quantized models: numbers are moved and bounded as integers, to the last bit the same.

Outputs are integers, or dequantized ones: they are compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.backends.target import Target
from burnish.passes.fuse.quantized import (
    FuseQuantized,
    bound_by_quantizing,
    concat_quantized,
    move_quantized,
    quantize_dequantized,
)
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass

_PARAMETERS = (
    "float s = {0.05}, float t = {0.06}, uint8 z = {128}, uint8 low = {0}, int8 i = {3},"
    "float[3] each = {0.05, 0.1, 0.2}, uint8[3] zeros = {0, 128, 255}, int64[2] flat = {0, -1},"
    "float zero = {0.0}, float six = {6.0}, float tenth = {0.1}, float none = {0.0}"
)


def _exact(what: object, text: str, ops: list[str], signature: str = "float[2,3,4,4] x") -> None:
    model = parse(f"g ({signature}) => (uint8[] y) <{_PARAMETERS}> {{ {text} }}")
    original = model.clone()
    run_pass(what, model)  # type: ignore[arg-type]
    assert [node.op_type for node in model.graph] == ops
    with onnxruntime.session(original) as old, onnxruntime.session(model) as new:
        feeds = {name: 10 * item for name, item in random_feeds(old, seed=0).items()}
        np.testing.assert_array_equal(old.run(feeds)["y"], new.run(feeds)["y"])


@pytest.mark.parametrize(
    "pair",
    [
        "d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, z)",
        "d = DequantizeLinear(q, s) y = QuantizeLinear(d, s, low)",
        "d = DequantizeLinear<axis=1>(q, each, zeros) y = QuantizeLinear<axis=1>(d, each, zeros)",
    ],
)
def test_quantizing_again_is_left_out(pair: str) -> None:
    text = f"q = QuantizeLinear(x, t, z) {pair}"
    _exact(quantize_dequantized, text, ["QuantizeLinear"])


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, t, z)", "zero point differs"),
        ("d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, low)", "zero point differs"),
        ("d = DequantizeLinear(q, s) y = QuantizeLinear(d, s, z)", "zero point differs"),
        ("d = DequantizeLinear(q, none, z) y = QuantizeLinear(d, none, z)", "a scale is 0"),
        ("d = DequantizeLinear(q, g, z) y = QuantizeLinear(d, g, z)", "is not constant"),
        (
            "d = DequantizeLinear<axis=0>(q, each, zeros) y = QuantizeLinear(d, each, zeros)",
            "zero point differs",
        ),
    ],
)
def test_quantizing_again_is_kept_where_it_rounds(pair: str, reason: str) -> None:
    model = parse(f"g (uint8[3,3] q, float g) => (uint8[] y) <{_PARAMETERS}> {{ {pair} }}")
    assert_refuses(quantize_dequantized, model, reason)


@pytest.mark.parametrize(
    ("kind", "scale", "quantized"),
    [("uint8", 0.1, False), ("uint8", 300.0, True), ("uint16", 0.1, True), ("int16", 0.1, True)],
)
def test_a_scale_of_few_digits_rounds(
    freeze: Callable[..., ir.Model], kind: str, scale: float, quantized: bool
) -> None:
    model = freeze(
        f"g ({kind}[1000] x, float16 s, {kind} z) => ({kind}[1000] y)"
        " { d = DequantizeLinear(x, s)  y = QuantizeLinear(d, s, z) }",
        s=scale,
        z=0,
    )
    original = model.clone()
    run_pass(quantize_dequantized, model)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph) == quantized
    limits = np.iinfo(kind)
    feeds = {"x": np.linspace(limits.min, limits.max, 1000).astype(kind)}
    assert_same_outputs(original, model, feeds=feeds)


def test_the_largest_integer_may_stand_for_the_least_number(
    freeze: Callable[..., ir.Model],
) -> None:
    model = freeze(
        "g (uint8[1,1,4,4] x, float s, uint8 z) => (uint8[1,1,3,3] y)"
        "{ d = DequantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2]>(d)"
        " y = QuantizeLinear(m, s, z) }",
        s=-0.5,
        z=100,
    )
    assert_refuses(move_quantized, model, "the largest integer stands for the least number")


def test_integers_of_another_type_are_made() -> None:
    model = parse(
        f"g (uint8[3,3] q) => (int8[] y) <{_PARAMETERS}>"
        "{ d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, i) }"
    )
    assert_refuses(quantize_dequantized, model, "the integers are of another type")


_MOVES = {
    "Reshape": "r = Reshape(d, flat)",
    "Transpose": "r = Transpose<perm=[0,2,3,1]>(d)",
    "MaxPool": "r = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(d)",
    "Slice": "r = Slice(d, flat, flat)",
}


@pytest.mark.parametrize("name", _MOVES)
def test_numbers_are_moved_as_integers(name: str) -> None:
    text = (
        f"q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {_MOVES[name]}"
        " y = QuantizeLinear(r, s, z)"
    )
    _exact(move_quantized, text, ["QuantizeLinear", name])


def test_numbers_are_joined_as_integers() -> None:
    text = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = QuantizeLinear(v, s, z)"
        " e = DequantizeLinear(r, s, z) c = Concat<axis=1>(d, e) y = QuantizeLinear(c, s, z)"
    )
    after = ["QuantizeLinear", "QuantizeLinear", "Concat"]
    _exact(concat_quantized, text, after, "float[2,3] x, float[2,5] v")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("c = Concat<axis=0>(d, v) y = QuantizeLinear(c, s, z)", "not all of it was quantized"),
        ("c = Concat<axis=0>(d, e) y = QuantizeLinear(c, s, z)", "zero point differs"),
    ],
)
def test_numbers_of_several_scales_are_not_joined(text: str, reason: str) -> None:
    model = parse(
        f"g (uint8[2,3] q, float[2,3] v) => (uint8[] y) <{_PARAMETERS}>"
        f"{{ d = DequantizeLinear(q, s, z) e = DequantizeLinear(q, t, z) {text} }}"
    )
    assert_refuses(concat_quantized, model, reason)


def test_channels_with_scales_of_their_own_are_not_moved() -> None:
    model = parse(
        f"g (uint8[3,2] q) => (uint8[] y) <{_PARAMETERS}>"
        "{ d = DequantizeLinear<axis=0>(q, each, zeros) r = Transpose(d)"
        "  y = QuantizeLinear<axis=0>(r, each, zeros) }"
    )
    assert_refuses(move_quantized, model, "scales by channel would move with their axis")


def test_signed_numbers_are_moved_where_the_runtime_takes_them() -> None:
    text = (
        f"g (int8[3,4] q) => (int8[] y) <{_PARAMETERS}> {{ d = DequantizeLinear(q, s, i)"
        " r = Transpose(d) y = QuantizeLinear(r, s, i) }"
    )
    cpu = Target.parse("cpu")
    x86, arm = (replace(cpu, isa=frozenset(isa)) for isa in (("sse4.1", "avx2"), ("neon",)))
    reason = "the runtime makes signed pairs unsigned only where nothing stands between them"
    assert_refuses(move_quantized, parse(text), reason, target=x86)
    model = parse(text)
    run_pass(FuseQuantized(), model, target=arm)
    assert [node.op_type for node in model.graph] == ["Transpose"]


@pytest.mark.parametrize(
    "clip",
    [
        "c = Relu(x) y = QuantizeLinear(c, s, low)",
        "c = Relu(x) y = QuantizeLinear(c, s)",
        "c = Clip(x, zero) y = QuantizeLinear(c, s, low)",
    ],
)
def test_integers_have_their_own_bounds(clip: str) -> None:
    _exact(bound_by_quantizing, clip, ["QuantizeLinear"])


@pytest.mark.parametrize(
    "clip",
    [
        "c = Relu(x) y = QuantizeLinear(c, s, z)",
        "c = Clip(x, zero, six) y = QuantizeLinear(c, s, low)",
        "c = Clip(x, tenth) y = QuantizeLinear(c, s, low)",
    ],
)
def test_bounds_within_those_of_integers_are_kept(clip: str) -> None:
    model = parse(f"g (float[4] x) => (uint8[] y) <{_PARAMETERS}> {{ {clip} }}")
    assert_refuses(bound_by_quantizing, model, "integers reach further than the bounds")
