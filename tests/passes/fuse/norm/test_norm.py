# SPDX-License-Identifier: Apache-2.0
"""LayerNormalization and RMSNormalization in the spellings of exporters.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32, 1e-2 for float16.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import onnx_ir as ir
import pytest

from burnish.passes.fuse.norm.layer_norm import layer_norm
from burnish.passes.fuse.norm.norm import FuseNorm
from burnish.passes.fuse.norm.norm_affine import norm_bias, norm_scale
from burnish.passes.fuse.norm.rms_norm import rms_norm
from burnish.testing import assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

Freeze = Callable[..., ir.Model]

SIGNATURE = (
    "g (float[3,5,8] x, float[8] w, float[8] b, float eps, float[1] two, float one, float half,"
    " float minushalf, int64[1] last) => (float[3,5,8] y)"
)
NUMBERS = {"eps": 1e-3, "two": 2, "one": 1, "half": 0.5, "minushalf": -0.5, "last": -1}

DEVIATIONS = {
    "div sqrt": "s = Sqrt(ve) z = Div({x}, s)",
    "mul reciprocal": "s = Sqrt(ve) i = Reciprocal(s) z = Mul(i, {x})",
    "mul one over": "s = Sqrt(ve) i = Div(one, s) z = Mul({x}, i)",
    "pow": "i = Pow(ve, minushalf) z = Mul({x}, i)",
    "div pow": "s = Pow(ve, half) z = Div({x}, s)",
}
AFFINES = {
    "scale and bias": "zw = Mul(w, z) y = Add(zw, b)",
    "scale": "y = Mul(z, w)",
    "bias": "y = Add(b, z)",
}


def fused(model: ir.Model) -> list[str]:
    """Run the pass; check the numbers; return the operators that are left."""
    original = model.clone()
    run_pass(FuseNorm(), model)
    assert_same_outputs(original, model)
    return [node.op_type for node in model.graph]


# --- layer-norm --------------------------------------------------------------------------------


def test_layer_norm() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float two = {2}, float eps = {0.001}>
        { m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[1]>(q)
          ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }"""
    )
    after = parse(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float[4] one = {1, 1, 1, 1}>
        { y = LayerNormalization<axis=-1, epsilon=0.001>(x, one) }"""
    )
    assert_rewrites(layer_norm, before, after)


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_nothing_is_added_to_the_variance(freeze: Freeze, deviation: str) -> None:
    """As torch's exporter writes what adds so little that it takes it for nothing, as in I-BERT."""
    root = DEVIATIONS[deviation].replace("ve", "v")
    centred = (
        "{ m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)"
        f" {root.format(x='d')} y = Mul(w, z) }}"
    )
    assert fused(freeze(SIGNATURE + centred, opset=18, **NUMBERS)) == ["LayerNormalization"]
    plain = f"{{ q = Mul(x, x) v = ReduceMean(q, last) {root.format(x='x')} y = Mul(w, z) }}"
    assert fused(freeze(SIGNATURE + plain, opset=23, **NUMBERS)) == ["RMSNormalization"]


def test_the_root_of_something_else_than_a_variance(freeze: Freeze) -> None:
    body = (
        "{ m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) a = Abs(v)"
        " s = Sqrt(a) y = Div(d, s) }"
    )
    assert "LayerNormalization" not in fused(freeze(SIGNATURE + body, opset=18, **NUMBERS))


@pytest.mark.parametrize("subtraction", ["d = Sub(x, m) c = Sub(x, m)", "d = Sub(x, m)"])
@pytest.mark.parametrize(
    ("deviation", "affine"),
    [*itertools.product(DEVIATIONS, ["scale and bias"]), ("div sqrt", "scale"), ("pow", "bias")],
)
def test_spellings(freeze: Freeze, subtraction: str, deviation: str, affine: str) -> None:
    centred = "c" if "c =" in subtraction else "d"
    body = (
        f"{{ m = ReduceMean(x, last) {subtraction} q = Mul({centred}, {centred})"
        " v = ReduceMean(q, last) ve = Add(eps, v)"
        f" {DEVIATIONS[deviation].format(x='d')} {AFFINES[affine]} }}"
    )
    assert fused(freeze(SIGNATURE + body, opset=18, **NUMBERS)) == ["LayerNormalization"]


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("axes", ["-1", "2", "1, 2", "-1, -2"])
def test_axes_as_an_attribute(freeze: Freeze, axes: str, dtype: str) -> None:
    body = (
        f"{{ m = ReduceMean<axes=[{axes}]>(x) d = Sub(x, m) q = Pow(d, two)"
        f" v = ReduceMean<axes=[{axes}]>(q) ve = Add(v, eps) s = Sqrt(ve) z = Div(d, s)"
        " zw = Mul(z, w) y = Add(zw, b) }"
    )
    model = freeze((SIGNATURE + body).replace("float", dtype), opset=17, **NUMBERS)
    assert fused(model) == ["LayerNormalization"]


@pytest.mark.parametrize(
    ("mean", "variance", "reason"),
    [
        ("<axes=[0]>(x)", "<axes=[0]>(q)", "the mean is not over the last axes"),
        ("(x)", "(q)", "the mean is over everything"),
        ("<axes=[-1]>(x)", "<axes=[1, 2]>(q)", "the mean and the variance are over different axes"),
    ],
)
def test_other_axes_are_refused(freeze: Freeze, mean: str, variance: str, reason: str) -> None:
    body = (
        f"{{ m = ReduceMean{mean} d = Sub(x, m) q = Pow(d, two) v = ReduceMean{variance}"
        " ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }"
    )
    assert_refuses(layer_norm, freeze(SIGNATURE + body, opset=17, **NUMBERS), reason)


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("g (float[N,K] x,", "the normalized size is unknown"),
        ("g (double[3,8] x,", "the normalization takes its epsilon and its sums as float32"),
    ],
)
def test_unknown_sizes_and_wide_types_are_refused(
    freeze: Freeze, signature: str, reason: str
) -> None:
    text = (
        f"{signature} float eps, float two) => (float[M,L] y)"
        "{ m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)"
        " ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }"
    )
    if "double" in signature:
        text = text.replace("float", "double")
    assert_refuses(layer_norm, freeze(text, opset=17, eps=1e-3, two=2), reason)


def test_the_square_of_something_else_is_refused(freeze: Freeze) -> None:
    body = (
        "{ m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, x) v = ReduceMean(q, last)"
        " ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }"
    )
    model = freeze(SIGNATURE + body, opset=18, **NUMBERS)
    assert_refuses(layer_norm, model, "an input of Mul stands for two different values")


def test_before_its_opset_nothing_is_fused(freeze: Freeze) -> None:
    body = (
        "{ m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)"
        " ve = Add(v, eps) s = Sqrt(ve) y = Div(d, s) }"
    )
    assert "LayerNormalization" not in fused(freeze(SIGNATURE + body, opset=16, **NUMBERS))


# As Keras folds the scale, and as JAX computes the variance.
FOLDED = {
    "negative mean": "n = Neg(m) t = Mul(n, s) u = Add(t, b)",
    "bias first": "t = Mul(m, s) u = Sub(b, t)",
}
VARIANCES = {
    "of what is centred": "d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)",
    "of squares": "q = Mul(x, x) e = ReduceMean(q, last) n = Mul(m, m) v = Sub(e, n)",
    "of squares, at least 0": (
        "q = Pow(x, two) e = ReduceMean(q, last) n = Mul(m, m) o = Sub(e, n) v = Relu(o)"
    ),
}


@pytest.mark.parametrize("shift", FOLDED)
@pytest.mark.parametrize("scale", ["r = Reciprocal(sq) s = Mul(r, w)", "s = Reciprocal(sq)"])
def test_scale_and_bias_folded_into_one_product(freeze: Freeze, shift: str, scale: str) -> None:
    body = (
        f"{{ m = ReduceMean(x, last) {VARIANCES['of what is centred']} ve = Add(v, eps)"
        f" sq = Sqrt(ve) {scale} p = Mul(x, s) {FOLDED[shift]} y = Add(p, u) }}"
    )
    assert fused(freeze(SIGNATURE + body, opset=18, **NUMBERS)) == ["LayerNormalization"]


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_variance_in_other_spellings(freeze: Freeze, variance: str) -> None:
    body = (
        f"{{ m = ReduceMean(x, last) {VARIANCES[variance]} ve = Add(v, eps) s = Sqrt(ve)"
        " i = Reciprocal(s) k = Mul(i, w) c = Sub(x, m) z = Mul(c, k) y = Add(z, b) }"
    )
    assert fused(freeze(SIGNATURE + body, opset=18, **NUMBERS)) == ["LayerNormalization"]


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_channels_are_normalized_between_transposes(freeze: Freeze, dtype: str) -> None:
    text = (
        "g (float[N,6,5,4] x, int64[1] one, float two, float eps, float[6,1,1] w,"
        " float[1,6,1,1] b) => (float[N,6,5,4] y)"
        "{ m = ReduceMean(x, one) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, one)"
        " ve = Add(v, eps) s = Sqrt(ve) z = Div(d, s) zw = Mul(z, w) y = Add(zw, b) }"
    )
    model = freeze(text.replace("float", dtype), one=1, two=2, eps=1e-3)
    assert fused(model) == ["Transpose", "LayerNormalization", "Transpose"]


# --- rms-norm ----------------------------------------------------------------------------------


def test_rms_norm() -> None:
    before = parse(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[N,4] x) => (float[N,4] y)
        <float two = {2}, float eps = {0.001}, int64[1] last = {-1}>
        { q = Pow(x, two) v = ReduceMean(q, last) ve = Add(v, eps) s = Sqrt(ve)
          r = Reciprocal(s) y = Mul(x, r) }"""
    )
    after = parse(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[N,4] x) => (float[N,4] y)
        <float[4] one = {1, 1, 1, 1}> { y = RMSNormalization<axis=-1, epsilon=0.001>(x, one) }"""
    )
    assert_rewrites(rms_norm, before, after)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize(
    ("opset", "expected"), [(18, "SimplifiedLayerNormalization"), (23, "RMSNormalization")]
)
def test_spellings_of_rms_norm(
    freeze: Freeze, deviation: str, opset: int, expected: str, dtype: str
) -> None:
    body = (
        "{ q = Mul(x, x) v = ReduceMean(q, last) ve = Add(eps, v)"
        f" {DEVIATIONS[deviation].format(x='x')} y = Mul(w, z) }}"
    )
    model = freeze((SIGNATURE + body).replace("float", dtype), opset=opset, **NUMBERS)
    assert fused(model) == [expected]


def test_a_mean_that_drops_its_axis_is_refused(freeze: Freeze) -> None:
    body = (
        "{ q = Mul(x, x) v = ReduceMean<keepdims=0>(q, last) ve = Add(eps, v) s = Sqrt(ve)"
        " y = Div(x, s) }"
    )
    model = freeze((SIGNATURE + body).replace("3,5,8", "8,8,8"), opset=18, **NUMBERS)
    assert_refuses(rms_norm, model, "the mean drops its axes")


def test_rms_of_channels_between_transposes(freeze: Freeze) -> None:
    model = freeze(
        "g (float[N,6,5,4] x, int64[1] one, float eps, float[1,6,1,1] w) => (float[N,6,5,4] y)"
        "{ q = Mul(x, x) v = ReduceMean(q, one) ve = Add(v, eps) s = Sqrt(ve) i = Reciprocal(s)"
        " k = Mul(i, w) y = Mul(x, k) }",
        opset=23,
        one=1,
        eps=1e-3,
    )
    assert fused(model) == ["Transpose", "RMSNormalization", "Transpose"]


# --- norm-scale, norm-bias ---------------------------------------------------------------------


def test_a_scale_behind_a_norm_goes_into_it() -> None:
    before = parse(
        """g (float[N,2] x) => (float[N,2] y)
        <float[2] w = {1, 2}, float[2] b = {3, 4}, float[1,2] c = {10, 100}>
        { t = LayerNormalization(x, w, b) y = Mul(c, t) }"""
    )
    after = parse(
        """g (float[N,2] x) => (float[N,2] y) <float[2] w = {10, 200}, float[2] b = {30, 400}>
        { y = LayerNormalization(x, w, b) }"""
    )
    assert_rewrites(norm_scale, before, after)


def test_a_bias_behind_a_norm_goes_into_it() -> None:
    before = parse(
        """g (float[N,2] x) => (float[N,2] y)
        <float[2] w = {1, 2}, float[2] b = {3, 4}, float c = {10}>
        { t = LayerNormalization(x, w, b) y = Add(c, t) }"""
    )
    after = parse(
        """g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}, float[2] b = {13, 14}>
        { y = LayerNormalization(x, w, b) }"""
    )
    assert_rewrites(norm_bias, before, after)


def test_scale_and_bias_that_are_computed(freeze: Freeze) -> None:
    model = freeze(
        "g (float[3,8] x, float[8] x1, float[8] x2, float[8] ones) => (float[3,8] y)"
        "{ t = LayerNormalization(x, ones) s = Mul(t, x1) y = Add(x2, s) }",
        ones=1,
    )
    assert fused(model) == ["LayerNormalization"]


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_numbers_stay_when_scale_and_bias_repeat(freeze: Freeze, dtype: str) -> None:
    text = (
        "g (float[3,8] x, float[8] w, float[8] b, float v, float[1,8] c) => (float[3,8] y)"
        "{ t = LayerNormalization(x, w, b) s = Mul(t, v) r = Add(c, s) q = Mul(r, c) p = Div(q, v)"
        " y = Sub(p, c) }"
    )
    assert fused(freeze(text.replace("float", dtype))) == ["LayerNormalization"]


@pytest.mark.parametrize(
    ("operator", "operand", "reason"),
    [
        ("Mul", "float[3,1] c", "the constant differs along more than the normalized axes"),
        ("Mul", "float[3,8] c", "the constant differs along more than the normalized axes"),
        ("Mul", "float[3,8] x1", "the other operand is not constant"),
        ("Add", "float[3,8] x1", "the other operand is not constant"),
    ],
)
def test_other_scales_and_biases_are_refused(
    freeze: Freeze, operator: str, operand: str, reason: str
) -> None:
    name = operand.split()[1]
    model = freeze(
        f"g (float[3,8] x, float[8] w, {operand}) => (float[3,8] y)"
        f"{{ t = LayerNormalization(x, w) y = {operator}(t, {name}) }}"
    )
    assert_refuses(norm_scale if operator == "Mul" else norm_bias, model, reason)
