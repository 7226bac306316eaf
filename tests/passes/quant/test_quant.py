# SPDX-License-Identifier: Apache-2.0
"""The `quant` group: its modes, what it leaves alone, and a real model."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish.backends.onnxfile import save
from burnish.passes.calibration import CalibrationSource
from burnish.passes.pipeline import Pipeline
from burnish.passes.quant import Quant
from burnish.passes.quant.ready import is_quantized
from burnish.testing import parse, rewrites, run_pass, structural_difference

Build = Any
Samples = Any
Error = Any

MIXED = """g (float[N,8,8,8] x) => (float[N,20] y) {
    a = Conv(x, w1)
    r = Relu(a)
    m = GlobalAveragePool(r)
    f = Flatten(m)
    y = Gemm(f, w2, b2)
}"""
MIXED_WEIGHTS = {"w1": (32, 8, 1, 1), "w2": (32, 20), "b2": (20,)}


def test_expansion_and_text() -> None:
    auto = Pipeline.parse("quant{calibrate=entropy exclude=head.*}").expand()
    assert str(auto) == (
        "convs-to-products,balance{calibrate=entropy exclude=head.*},fill-depthwise,"
        "mixed-precision{calibrate=entropy exclude=head.*},"
        "unfill-depthwise,"
        "quant-static{calibrate=entropy ops=Conv along=MatMul,Gemm exclude=head.* optional=true},"
        "quant-dynamic{exclude=head.*},quant-tables{exclude=head.*},"
        "store-int8{exclude=head.*},drop-implied{quantized=true}"
    )
    assert Pipeline.parse(str(auto)) == auto
    assert str(Pipeline.of("quant{mode=static}").expand()) == (
        "convs-to-products,balance,fill-depthwise,mixed-precision{mode=static},unfill-depthwise,"
        "quant-static,quant-tables,store-int8,drop-implied{quantized=true}"
    )
    assert str(Pipeline.of("quant{mode=dynamic}").expand()) == (
        "convs-to-products,mixed-precision{mode=dynamic},quant-dynamic,quant-tables,"
        "store-int8,drop-implied{quantized=true}"
    )


def test_with_data_conv_is_static_and_gemm_dynamic(
    build: Build, samples: Samples, error: Error
) -> None:
    model = build(MIXED, **MIXED_WEIGHTS)
    before = model.clone()
    ctx = run_pass("quant", model, calibration=samples(model, 2, 8, 8, 8, count=32))
    done = {"quant-conv": 1, "quant-globalaveragepool": 1, "quant-gemm": 1}
    assert rewrites(ctx).items() >= done.items()
    assert ctx.warnings == []
    assert error(before, model) < 0.03


def test_without_data_one_line_says_what_data_would_add(build: Build, error: Error) -> None:
    model = build(MIXED, **MIXED_WEIGHTS)
    before = model.clone()
    ctx = run_pass("quant", model)
    assert rewrites(ctx).keys() == {"quant-gemm", "implied-size"}
    assert ctx.warnings == [
        "1 Conv stay float: sample inputs (--calib) would let them be quantized too"
    ]
    assert error(before, model) < 0.02


def test_without_data_products_that_become_int8_are_not_said_to_stay_float(build: Build) -> None:
    model = build(
        """g (float[2,8,2,2] x) => (float[2,20] y) {
            a = Conv(x, w0) r = Relu(a) c = Conv(r, w1) p = Relu(c)
            s = Constant <value_ints = [2, 128]> () f = Reshape(p, s)
            h = Gemm(f, w2, b2) y = Gemm(h, w3)
        }""",
        w0=(8, 8, 1, 1),
        w1=(32, 8, 1, 1),
        w2=(128, 32),
        b2=(32,),
        w3=(32, 20),
    )
    ctx = run_pass("quant", model)
    assert rewrites(ctx)["quant-gemm"] == 2
    assert [line for line in ctx.warnings if "stay float" in line] == [
        "2 Conv stay float: sample inputs (--calib) would let them be quantized too"
    ]


def test_without_data_and_without_conv_there_is_nothing_to_say(build: Build) -> None:
    model = build("g (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }", w=(32, 24))
    assert run_pass("quant", model).warnings == []


QUANTIZED = [
    "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
    "q, t, u = DynamicQuantizeLinear(x) i = MatMulInteger(q, wq) y = Cast <to = 1> (i)",
]


@pytest.mark.parametrize("body", QUANTIZED)
@pytest.mark.parametrize("passes", ["quant", "quant{mode=static}", "quant{mode=dynamic}"])
def test_a_model_that_is_quantized_in_part_is_passed_through(
    build: Build, samples: Samples, body: str, passes: str
) -> None:
    model = build(
        f"g (float[N,32] x) => (float[N,32] y, float[N,24] p) {{ p = MatMul(x, w) {body} }}",
        w=(32, 24),
        s=np.array(0.1, np.float32),
        z=np.array(0, np.uint8),
        wq=np.ones((32, 32), np.int8),
    )
    before = model.clone()
    ctx = run_pass(passes, model, calibration=samples(model, 4, 32))
    assert rewrites(ctx) == {}
    assert len(ctx.warnings) == 1
    assert "already quantized" in ctx.warnings[0]
    assert structural_difference(before, model) is None


def test_float_layers_beside_quantized_ones_are_passed_through(
    build: Build, samples: Samples, tmp_path: Any
) -> None:
    """A depthwise convolution to fill up, a pointwise one of rows, an attribute at its default."""
    model = build(
        """g (float[N,24,8,8] x, float[N,7,24] r) => (float[N,24,8,8] y, float[N,7,24] p) {
            q = QuantizeLinear(x, s, z)
            i = DequantizeLinear(q, s, z)
            c = Conv(i, w)
            d = Conv <group = 24, pads = [1, 1, 1, 1], strides = [1, 1]> (c, k)
            y = Conv(d, w)
            t = Transpose <perm = [0, 2, 1]> (r)
            f = Conv(t, v)
            p = Transpose <perm = [0, 2, 1]> (f)
        }""",
        w=(24, 24, 1, 1),
        k=(24, 1, 3, 3),
        v=(24, 24, 1),
        s=np.array(0.05, np.float32),
        z=np.array(128, np.uint8),
    )

    def feeds() -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        sizes = {"x": (1, 24, 8, 8), "r": (1, 7, 24)}
        return [{n: rng.normal(0, 1, size).astype(np.float32) for n, size in sizes.items()}] * 4

    (before,) = save(model, tmp_path / "before.onnx")
    data = CalibrationSource.from_iterable(feeds, model.graph.inputs)
    ctx = run_pass("quant", model, calibration=data)
    assert rewrites(ctx) == {}
    assert len(ctx.warnings) == 1
    (after,) = save(model, tmp_path / "after.onnx")
    assert before.read_bytes() == after.read_bytes()


def test_the_result_is_passed_through_when_it_comes_again(
    build: Build, samples: Samples, tmp_path: Any
) -> None:
    model = build(MIXED, **MIXED_WEIGHTS)
    calibration = samples(model, 2, 8, 8, 8)
    burnish.optimize(model, "quant", calibration=calibration, output=tmp_path / "one.onnx")
    _, report = burnish.optimize(
        tmp_path / "one.onnx", "quant", calibration=calibration, output=tmp_path / "two.onnx"
    )
    assert len(report.warnings) == 1
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_is_quantized_looks_everywhere() -> None:
    assert is_quantized(parse("g (float[4] x) => (float[4] y) { y = Neg(x) }")) is None
    inside = parse("""g (uint8[4] x, bool c, float s) => (float[4] y) {
        y = If(c) <
            then_branch = t () => (float[4] p) { p = DequantizeLinear(x, s) },
            else_branch = e () => (float[4] q) { q = Cast <to = 1> (x) }
        >
    }""")
    assert is_quantized(inside) == "1 DequantizeLinear"
    contributed = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[4,4] x, uint8[4,4] w, float s) => (float[4,4] y) {
            y = com.microsoft.DynamicQuantizeMatMul(x, w, s)
        }""")
    assert is_quantized(contributed) == "1 DynamicQuantizeMatMul"


def test_options_are_checked() -> None:
    for text in ("quant{percentile=20}", "quant{calibrate=best}", "quant{mode=fast}"):
        with pytest.raises(burnish.InputError):
            Pipeline.parse(text)
    assert Quant(percentile=99.9).percentile == 99.9


_TWICE = """
import sys
import burnish
from burnish.tools import zoo
name, count, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
burnish.optimize(
    zoo.fetch(name),
    "fuse,quant{mode=static}",
    calibration=lambda: zoo.feeds(name, count),
    output=output,
)
"""


@pytest.mark.slow
@pytest.mark.zoo
def test_a_transformer_gets_the_same_bytes_in_another_process(tmp_path: Any) -> None:
    """Whatever order sets and dicts of strings have there."""
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _TWICE, "minilm-l6-dynamo", "4", f"{seed}.onnx"]
        subprocess.run(
            command, cwd=tmp_path, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.zoo
def test_halves_of_a_transformers_samples_merged_equal_the_whole() -> None:
    """Every float value of MiniLM, on 6 samples and on 2 and 4 of them."""
    from burnish import frontends
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.quant.calibration.collect import collect
    from burnish.passes.quant.calibration.observers import Percentile
    from burnish.passes.quant.calibration.ranges import float_values
    from burnish.passes.shapes import infer_shapes
    from burnish.tools import zoo

    model = frontends.load(zoo.fetch("minilm-l6-dynamo")).model
    infer_shapes(model)
    feeds = list(zoo.feeds("minilm-l6-dynamo", 6))
    names = float_values(model)
    parts = []
    for part in (feeds, feeds[:2], feeds[2:]):
        watching = {name: [Percentile(99.99)] for name in names}
        source = CalibrationSource.from_iterable(functools.partial(list, part), model.graph.inputs)
        collect(model, watching, source)
        parts.append(watching)
    whole, first, second = parts
    assert len(names) > 200
    for name in names:
        first[name][0].merge(second[name][0])
        assert first[name][0].range() == whole[name][0].range(), name


@pytest.mark.zoo
def test_a_real_model_gets_small_and_stays_accurate(tmp_path: Any) -> None:
    """PP-OCRv6 rec: opset 11, weights behind Identity, residual stream, decomposed norms."""
    from burnish.backends import onnxruntime
    from burnish.tools import zoo

    source = zoo.fetch("ppocrv6-rec")
    for name in ("one.onnx", "two.onnx"):
        burnish.optimize(
            source,
            "cleanup,fuse,quant",
            calibration=lambda: zoo.feeds("ppocrv6-rec", 32),
            output=tmp_path / name,
        )
    result = tmp_path / "one.onnx"
    assert result.read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert result.stat().st_size < 0.35 * source.stat().st_size
    metric = zoo.metric("ppocrv6-rec")
    scores = []
    for path in (source, result):
        with onnxruntime.session(path, optimize="all") as session:
            scores.append(metric.evaluate(session.run, limit=150))
    before, after = scores
    # The promise is 2 points; 150 lines tell apart steps of 0.7.
    assert after >= before - 0.02


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["ppocrv4-det", "ppocrv4-rec"])
def test_an_old_model_needs_no_preparation(name: str, tmp_path: Any) -> None:
    """PP-OCRv4: opset 10 to 12, weights in Constant nodes; the runtime's own tools fail on it."""
    from burnish.backends import onnxruntime
    from burnish.passes.quant.search.sensitivity import Reference
    from burnish.tools import zoo

    source, result = zoo.fetch(name), tmp_path / "int8.onnx"
    calibration = lambda: zoo.feeds(name, 8)  # noqa: E731 - read anew each time
    burnish.optimize(source, "quant", calibration=calibration, output=result)
    assert result.stat().st_size < 0.5 * source.stat().st_size
    with onnxruntime.session(source) as before, onnxruntime.session(result) as after:
        likeness = Reference(before.run, zoo.feeds(name, 2, seed=1)).compare(after.run)
    assert likeness.cosine > 0.97
