# SPDX-License-Identifier: Apache-2.0
"""Models quantized for other runtimes become what TensorRT's parser takes; numbers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.backends.tensorrt.plan import read
from burnish.backends.tensorrt.surgery import prepare
from burnish.testing import assert_same_outputs

Made = Any
Engine = Any

# As ONNX Runtime's own tools write it: uint8 about 128, an int32 bias.
QUANTIZED = """g (float[N,8] x) => (float[N,4] y)
    <float s = {0.05}, uint8 z = {128}, float sw = {0.01}, float sb = {0.0005}, int32 zb = {0}> {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    dw = DequantizeLinear(w, sw, zw)
    db = DequantizeLinear(b, sb, zb)
    [product] y = Gemm(d, dw, db)
}"""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w": rng.integers(60, 200, (8, 4), np.uint8),
        "zw": np.array(128, np.uint8),
        "b": rng.integers(-9000, 9000, 4, np.int32),
    }


def test_zero_points_move_and_biases_become_float(made: Made, engine: Engine) -> None:
    model = made(QUANTIZED, **weights())
    ready = prepare(model)
    assert_same_outputs(model, ready)
    dtypes = {value.name: value.dtype for value in ready.graph.initializers.values()}
    assert ir.DataType.UINT8 not in dtypes.values()
    assert ir.DataType.INT32 not in dtypes.values()
    assert read(engine(model, "sm89", ("N=1:1:8",))).summary()["products"] == {"int8": 1}


def test_the_model_itself_is_left_alone(made: Made) -> None:
    model = made(QUANTIZED, **weights())
    before = ir.to_proto(model).SerializeToString()
    assert prepare(model) is not model
    assert ir.to_proto(model).SerializeToString() == before
    plain = made("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")
    assert prepare(plain) is plain


def test_the_runtimes_own_operators_become_standard(made: Made) -> None:
    model = made(
        """g (float[N,8] x) => (float[N,8] y) <float s = {0.05}, int8 z = {0}> {
            q = com.microsoft.QuantizeLinear(x, s, z)
            y = com.microsoft.DequantizeLinear(q, s, z)
        }"""
    )
    ready = prepare(model)
    assert {node.domain for node in ready.graph} == {""}
    assert_same_outputs(model, ready)


def test_another_zero_point_stays(made: Made) -> None:
    data = weights() | {"zw": np.array(120, np.uint8)}
    ready = prepare(made(QUANTIZED, **data))
    assert "w" in ready.graph.initializers
    assert ready.graph.initializers["w"].dtype == ir.DataType.UINT8


def test_biases_by_channel(made: Made) -> None:
    text = QUANTIZED.replace(", float sb = {0.0005}, int32 zb = {0}", "")
    text = text.replace("DequantizeLinear(b", "DequantizeLinear<axis = 0>(b")
    data = weights() | {
        "sb": np.array([0.001, 0.002, 0.003, 0.004], np.float32),
        "zb": np.zeros(4, np.int32),
    }
    model = made(text, **data)
    assert_same_outputs(model, prepare(model))
