# SPDX-License-Identifier: Apache-2.0
"""fp8: rounding against the reference, pairs in place, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.precision import Fp8
from burnish.passes.precision.fp8 import LARGEST, fp8_scale, to_fp8
from burnish.testing import refusals, rewrites, run_pass, structural_difference

Build = Callable[..., ir.Model]

MATMUL = "g (float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }"
GEMM = "g (float[N,64] x) => (float[N,32] y) { y = Gemm <transB = 1, alpha = 0.5> (x, w, b) }"
CONV = "g (float[1,8,9,9] x) => (float[1,16,7,7] y) { y = Conv(x, w, b) }"


def samples(model: ir.Model, *shape: int) -> CalibrationSource:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(4)]
    return CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)


def test_rounding_is_that_of_the_operator() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, s, 500) for s in (1e-4, 1, 300)]).astype(np.float32)
    for scale in (np.array(1, np.float32), np.array(0.37, np.float32)):
        text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N] x, float8e4m3fn z) => (float8e4m3fn[N] y) <float s = {{{scale}}}>
        {{ y = QuantizeLinear(x, s, z) }}"""
        zero = to_fp8(np.zeros((), np.float32), np.ones((), np.float32))
        (expected,) = ReferenceEvaluator(onnx.parser.parse_model(text)).run(
            None, {"x": x, "z": zero}
        )
        actual = to_fp8(x, scale).astype(np.float32)
        np.testing.assert_array_equal(actual, np.asarray(expected).astype(np.float32))
        # Three bits of mantissa: half of an eighth of a number; 2**-10 below the normal ones.
        inside = np.abs(x / scale) <= LARGEST
        bound = np.maximum(np.abs(x) / 16, scale * 2**-10)
        assert (np.abs(actual * scale - x)[inside] <= bound[inside]).all()


def test_scales_reach_the_largest_number() -> None:
    np.testing.assert_allclose(fp8_scale(np.array([0.0, 448.0, 1.0])), [1, 1, 1 / 448])
    assert fp8_scale(0.0).dtype == np.float32


@pytest.mark.parametrize(
    ("text", "weights", "shape", "axis"),
    [
        (MATMUL, {"w": (64, 32)}, (5, 64), 1),
        (GEMM, {"w": (32, 64), "b": (32,)}, (5, 64), 0),
        (CONV, {"w": (16, 8, 3, 3), "b": (16,)}, (1, 8, 9, 9), 0),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_pairs_around_a_product(
    build: Build,
    text: str,
    weights: dict[str, Any],
    shape: tuple[int, ...],
    axis: int,
    per_channel: bool,
) -> None:
    model = build(text, **weights)
    before = model.clone()
    calibration = samples(model, *shape)
    ctx = run_pass(Fp8(per_channel=per_channel), model, calibration=calibration)
    assert sum(rewrites(ctx).values()) == 1
    assert Counter(node.op_type for node in model.graph) == Counter(
        {"QuantizeLinear": 1, "DequantizeLinear": 2, before.graph[0].op_type: 1}
    )
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    scale = model.graph.initializers["w_scale"].const_value
    assert scale is not None
    old = before.graph.initializers["w"].const_value
    assert old is not None
    assert scale.shape.numpy() == ((old.shape.numpy()[axis],) if per_channel else ())
    feeds = next(iter(calibration))
    with onnxruntime.session(before) as session:
        expected = session.run(feeds)["y"]
    with onnxruntime.session(model) as session:
        actual = session.run(feeds)["y"]
    (reference,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(actual, np.asarray(reference), rtol=1e-4, atol=1e-5)
    # Each of the two factors is off by 2.6% in the mean (three bits, uniform), sums by as much.
    assert np.linalg.norm(actual - expected) < 0.05 * np.linalg.norm(expected)
    assert any("gets slower" in line for line in ctx.warnings)


def test_products_of_one_input_share_its_pair(build: Build) -> None:
    text = """g (float[N,64] x) => (float[N,32] y) {
        a = MatMul(x, w)
        b = MatMul(x, w)
        c = MatMul(x, v)
        d = Add(a, b)
        y = Add(c, d)
    }"""
    model = build(text, w=(64, 32), v=(64, 32))
    run_pass(Fp8(), model, calibration=samples(model, 5, 64))
    counts = Counter(node.op_type for node in model.graph)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (1, 3)
    assert "w" not in model.graph.initializers


def test_it_needs_data_and_says_what_stays(build: Build) -> None:
    model = build(MATMUL, w=(64, 32))
    before = model.clone()
    with pytest.raises(InputError, match="fp8 needs calibration data"):
        run_pass(Fp8(), model)
    ctx = run_pass(Fp8(exclude=("y",)), model, calibration=samples(model, 5, 64))
    assert refusals(ctx) == {"fp8-matmul": {"excluded by name": 1}}
    assert structural_difference(before, model) is None


def test_an_old_opset_is_raised_and_twice_is_once(build: Build) -> None:
    model = build(MATMUL, opset=13, w=(64, 32))
    run_pass(Fp8(), model, calibration=samples(model, 5, 64))
    assert model.opset_imports[""] == 19
    assert rewrites(run_pass(Fp8(), model, calibration=samples(model, 5, 64))) == {}


@pytest.mark.zoo
def test_minilm(tmp_path: Path) -> None:
    """Sentence vectors stay, weights of products take a quarter.

    ONNX Runtime 1.31 takes float8 pairs for int8 ones from its extended optimizations on, and then
    refuses the model.
    """
    import burnish
    from burnish.tools import zoo

    name = "minilm-l6-torchscript"
    source, output = zoo.fetch(name), tmp_path / "fp8.onnx"
    burnish.optimize(source, "cleanup,fp8", calibration=list(zoo.feeds(name, 16)), output=output)
    assert output.stat().st_size < 0.66 * source.stat().st_size  # tables stay float32
    vectors = []
    for path in (source, output):
        with onnxruntime.session(path, threads=2, optimize="basic") as session:
            runs = [next(iter(session.run(feeds).values())) for feeds in zoo.feeds(name, 24)]
        vectors.append(np.stack([run[0].mean(axis=0) for run in runs[16:]]))
    dots = (vectors[0] * vectors[1]).sum(axis=1)
    cosines = dots / np.linalg.norm(vectors[0], axis=1) / np.linalg.norm(vectors[1], axis=1)
    assert cosines.min() > 0.98
