# SPDX-License-Identifier: Apache-2.0
"""What of an operator may change its type: single ones, and every case that ships with onnx."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir
import pytest

from burnish.backends.target import Target
from burnish.passes.precision import BFloat16, Float16
from burnish.passes.precision.signature import Signature, signature
from burnish.passes.shapes import infer_shapes
from burnish.testing import parse, run_pass

FLOAT16, BFLOAT16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def of(text: str, dtype: ir.DataType = FLOAT16) -> Signature | str | None:
    model = parse(text)
    infer_shapes(model)
    return signature(model.graph[0], model.opset_imports.get(model.graph[0].domain, 1), dtype)


def test_types_that_go_together_change_together() -> None:
    assert of("g (float[2] a, float[2] b) => (float[2] c) { c = Add(a, b) }") == Signature(
        (0, 1), (0,)
    )
    assert of("g (bool[2] a, float[2] b, float[2] c) => (float[2] d) { d = Where(a, b, c) }") == (
        Signature((1, 2), (0,))
    )


def test_what_the_schema_fixes_stays() -> None:
    text = """g (float[1,1,2,2] x, float[4] s) => (float[A,B,C,D] y) { y = Resize(x, , s) }"""
    assert of(text) == Signature((0,), (0,))
    norm = """g (float[2,4] x, float[4] s) => (float[2,4] y, float[2,1] m)
    { y, m = LayerNormalization(x, s, ) }"""
    assert of(norm) == of(norm, BFLOAT16) == Signature((0, 1), (0,))


def test_casts_give_what_they_are_told() -> None:
    assert of("g (int64[2] x) => (float[2] y) { y = Cast <to = 1> (x) }") == Signature((), (0,))
    assert of("g (float[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }") == Signature((0,), ())
    assert of("g (int64[2] x) => (int64[2] y) { y = Neg(x) }") is None


@pytest.mark.parametrize("opset", [19, 21, 23])
def test_dequantized_tensors_have_the_type_of_their_scale(opset: int) -> None:
    """Opset 23 gives the output a type variable of its own."""
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (int8[4] x, float s, int8 z) => (float[4] y) {{ y = DequantizeLinear(x, s, z) }}"""
    assert of(text) == Signature((1,), (0,))
    told = text.replace("DequantizeLinear(", "DequantizeLinear <output_dtype = 1> (")
    if opset == 23:
        assert of(told) == Signature((1,), ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2] a, float[2] b) => (float[N] c) { c = Range(a, b, b) }", "takes no float16"),
        ("g (float[2] x) => (float[2] y) { y = Bernoulli(x) }", "depend on each other"),
        ("g (float[2] x) => (seq(float[1]) y) { y = SplitToSequence(x) }", "no tensor"),
        (
            """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
            g (float[2] x) => (float[2] y) { y = mine.Strange(x) }""",
            "its operator is unknown",
        ),
    ],
)
def test_what_does_not_change(text: str, reason: str) -> None:
    found = of(text)
    assert isinstance(found, str)
    assert reason in found


def test_operators_of_the_runtime_are_known() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[2,4] x, float[4] b) => (float[2,4] y) { y = com.microsoft.BiasGelu(x, b) }"""
    assert of(text) == Signature((0, 1), (0,))


@functools.cache
def _cases() -> list[onnx.ModelProto]:
    from onnx.backend.test.loader import load_model_tests

    found = []
    for case in load_model_tests(kind="node"):
        model = case.model or onnx.load(f"{case.model_dir}/model.onnx")
        if any(node.op_type == "If" for node in model.graph.node):
            continue  # some hold shapes that onnx's own inference refuses once it sees types
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
        if max(entry.version for entry in model.opset_import) <= Target.parse("cpu").max_opset:
            found.append(model)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "item", [Float16(keep_io=False, check=False), BFloat16(keep_io=False, check=False)], ids=str
)
def test_every_operator_stays_well_typed(item: Float16 | BFloat16, accelerator: Target) -> None:
    converted = 0
    for proto in _cases():
        model = ir.from_proto(proto)
        ctx = run_pass(item, model, target=accelerator)
        converted += any(report.rewrites for report in ctx.reports)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert converted > 1000
