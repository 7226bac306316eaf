# SPDX-License-Identifier: Apache-2.0
"""Pad goes into the padding of what is behind it, or says why not.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.conv.pad import FusePad, pad_average_pool, pad_conv, pad_max_pool
from burnish.passes.rule import Rule
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

Freeze = Callable[..., ir.Model]

X = "float[1,2,6,7] x"
P = "int64[8] p"
SPATIAL = [0, 0, 1, 2, 0, 0, 0, 1]


def fused(model: ir.Model) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass(FusePad(), model)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


# --- pad-conv ----------------------------------------------------------------------------------


def test_zeros_go_into_the_padding_of_a_convolution() -> None:
    before = parse(
        """g (float[1,1,5,5] x) => (float[1,1,7,10] y)
        <int64[8] p = {0, 0, 1, 2, 0, 0, 3, 4}, float[1,1,3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
        { t = Pad(x, p)  y = Conv<pads=[0, 0, 0, 1]>(t, w) }"""
    )
    after = parse(
        """g (float[1,1,5,5] x) => (float[1,1,7,10] y)
        <float[1,1,3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
        { y = Conv<pads=[1, 2, 3, 5]>(x, w) }"""
    )
    assert_rewrites(pad_conv, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(
    ("body", "opset", "given"),
    [
        ("{ t = Pad(x, p) y = Conv(t, w) }", 13, {"p": SPATIAL}),
        ('{ t = Pad(x, p, zero) y = Conv<auto_pad="VALID">(t, w) }', 21, {"p": SPATIAL}),
        ("{ t = Pad<pads=[0, 0, 4, 3, 0, 0, 5, 0]>(x) y = Conv(t, w) }", 10, {}),
        ("{ t = Pad(x, q, zero, axes) y = Conv<strides=[2, 2]>(t, w) }", 18, {}),
    ],
)
def test_spellings_of_pad(
    freeze: Freeze, body: str, opset: int, given: dict[str, list[int]], dtype: str
) -> None:
    signature = (
        f"g ({X}, {P}, int64[4] q, int64[2] axes, float zero, float[3,2,3,3] w)"
        " => (float[a,b,c,d] y) "
    )
    numbers = {"zero": 0, "q": [3, 1, 0, 2], "axes": [-1, 2], "p": SPATIAL} | given
    assert fused(freeze((signature + body).replace("float", dtype), opset=opset, **numbers)) == [
        "Conv"
    ]


def test_two_convolutions_share_a_pad(freeze: Freeze) -> None:
    model = freeze(
        f"g ({X}, {P}, float[3,2,3,3] w, float[3,2,1,1] w1) => (float[1,3,a,b] y, float[1,3,c,d] z)"
        "{ t = Pad(x, p) y = Conv(t, w) z = Conv(t, w1) }",
        p=SPATIAL,
    )
    assert fused(model) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("pad", "conv", "given", "reason"),
    [
        ("Pad(x, p, v)", "Conv", {}, "the Pad does not fill with zeros"),
        ('Pad<mode="edge">(x, p)', "Conv", {}, "the Pad does not fill with a constant"),
        ("Pad(x, x1)", "Conv", {}, "the Pad is not constant"),
        (
            "Pad(x, p)",
            "Conv",
            {"p": [0, 1, 0, 0, 0, 0, 0, 0]},
            "the Pad is not over spatial axes only",
        ),
        ("Pad(x, p)", "Conv", {"p": [0, 0, 1, 1, 0, 0, -1, 0]}, "the Pad crops"),
        (
            "Pad(x, p)",
            'Conv<auto_pad="SAME_LOWER">',
            {},
            "the padding depends on the size of the input",
        ),
    ],
)
def test_pad_conv_is_refused(
    freeze: Freeze, pad: str, conv: str, given: dict[str, list[int]], reason: str
) -> None:
    channels = 3 if given.get("p", SPATIAL)[1] else 2
    model = freeze(
        f"g ({X}, int64[8] x1, {P}, float v, float[3,{channels},3,3] w) => (float[a,b,c,d] y)"
        f"{{ t = {pad} y = {conv}(t, w) }}",
        **{"p": SPATIAL} | given,
    )
    assert_refuses(pad_conv, model, reason)


# --- pad-average-pool --------------------------------------------------------------------------


def test_zeros_go_into_the_padding_of_an_average() -> None:
    before = parse(
        f"g ({X}) => (float[1,2,5,8] y) <int64[8] p = {{0, 0, 1, 2, 0, 0, 0, 1}}>"
        "{ t = Pad(x, p)  y = AveragePool<kernel_shape=[3, 3]>(t) }"
    )
    after = parse(
        f"g ({X}) => (float[1,2,5,8] y)"
        "{ y = AveragePool<kernel_shape=[3,3], pads=[1,2,0,1], count_include_pad=1>(x) }"
    )
    assert_rewrites(pad_average_pool, before, after)


def test_numbers_of_an_average_stay(freeze: Freeze) -> None:
    text = (
        f"g ({X}, {P}) => (float[1,2,a,b] y) {{ t = Pad(x, p)"
        " y = AveragePool<kernel_shape=[4,4],strides=[2,1],pads=[1,1,1,1],count_include_pad=1>(t) }"
    )
    assert fused(freeze(text, p=SPATIAL)) == ["AveragePool"]
    assert fused(freeze(text.replace("float", "float16"), p=SPATIAL)) == ["AveragePool"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape=[3,3], pads=[1,1,1,1]", "the pooling does not count its own padding"),
        (
            "kernel_shape=[3,3], ceil_mode=1",
            "with ceil_mode the padding decides where the last window is",
        ),
        ("kernel_shape=[3,2]", "a window would lie in the padding"),
        ("kernel_shape=[3,3], dilations=[1,2]", "the window is dilated"),
    ],
)
def test_pad_average_pool_is_refused(freeze: Freeze, attributes: str, reason: str) -> None:
    model = freeze(
        f"g ({X}, {P}) => (float[1,2,a,b] y){{ t = Pad(x, p) y = AveragePool<{attributes}>(t) }}",
        p=SPATIAL,
    )
    assert_refuses(pad_average_pool, model, reason)


# --- pad-max-pool ------------------------------------------------------------------------------


def test_minus_infinity_goes_into_the_padding_of_a_maximum() -> None:
    before = parse(
        f"g ({X}) => (float[1,2,5,8] y) <int64[8] p = {{0, 0, 1, 2, 0, 0, 0, 1}}>"
        "{ least = Constant<value_float = -3.4028235e38>()"
        " t = Pad(x, p, least)  y = MaxPool<kernel_shape=[3, 3]>(t) }"
    )
    after = parse(
        f"g ({X}) => (float[1,2,5,8] y) {{ y = MaxPool<kernel_shape=[3, 3], pads=[1,2,0,1]>(x) }}"
    )
    assert_rewrites(pad_max_pool, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{ t = Pad(x, p, least) y = MaxPool<kernel_shape=[3, 3]>(t) }", ["MaxPool"]),
        (
            "{ r = Relu(x) t = Pad(r, p) y = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(t) }",
            ["Relu", "MaxPool"],
        ),
        (
            "{ r = Clip(x, zero) t = Pad(r, p) y = MaxPool<kernel_shape=[3, 3]>(t) }",
            ["Clip", "MaxPool"],
        ),
    ],
)
def test_numbers_of_a_maximum_stay(
    freeze: Freeze, body: str, expected: list[str], dtype: str
) -> None:
    text = f"g ({X}, {P}, float least, float zero) => (float[1,2,a,b] y) {body}"
    model = freeze(text.replace("float", dtype), p=SPATIAL, least=-np.inf, zero=0)
    assert fused(model) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "{ t = Pad(x, p) y = MaxPool<kernel_shape=[3, 3]>(t) }",
            "what the Pad fills with may be the largest",
        ),
        (
            "{ r = Relu(x) t = Pad(r, p, one) y = MaxPool<kernel_shape=[3, 3]>(t) }",
            "what the Pad fills with may be the largest",
        ),
        (
            "{ r = Relu(x) t = Pad(r, p) y, z = MaxPool<kernel_shape=[3, 3]>(t) k = Neg(z) }",
            "the inner MaxPool is used elsewhere too",
        ),
        (  # an upper bound that is computed may be below the lower one, and wins
            "{ m = ReduceMin<keepdims=0>(x) z = Sub(one, one) r = Clip(x, z, m) t = Pad(r, p)"
            " y = MaxPool<kernel_shape=[3, 3]>(t) }",
            "what the Pad fills with may be the largest",
        ),
    ],
)
def test_pad_max_pool_is_refused(freeze: Freeze, body: str, reason: str) -> None:
    model = freeze(f"g ({X}, {P}, float one) => (float[1,2,a,b] y) {body}", p=SPATIAL, one=1)
    assert_refuses(pad_max_pool, model, reason)


# --- what no rule takes ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [pad_conv, pad_average_pool, pad_max_pool])
def test_a_pad_that_is_an_output_stays(freeze: Freeze, rule: Rule) -> None:
    model = freeze(
        f"g ({X}, {P}, float[2,2,3,3] w) => (float[1,2,a,b] y, float[1,2,c,d] t)"
        "{ r = Relu(x) t = Pad(r, p) y = Conv(t, w) }",
        p=SPATIAL,
    )
    original = model.clone()
    run_pass(rule, model)
    assert "Pad" in [node.op_type for node in model.graph]
    assert_same_outputs(original, model)


def test_a_pad_of_what_is_empty_stays(freeze: Freeze) -> None:
    """The runtime pools no empty maps."""
    model = freeze(
        "g (float[1,4,2,0] x, int64[8] p) => (float[1,4,1,1] y)"
        "{ t = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(t) }",
        p=[0, 0, 0, 1, 0, 0, 0, 1],
    )
    assert_refuses(pad_average_pool, model, "what is padded is empty")
