# SPDX-License-Identifier: Apache-2.0
"""Int8 maps whose pixels are repeated: the same numbers as Resize, with no Resize left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.passes.edit import replace_value
from burnish.passes.quant.int8.static import QuantStatic
from burnish.passes.quant.int8.upsample import repeat, repeats
from burnish.testing import parse, rewrites, run_pass

Build = Any
Samples = Any
Census = Any
Error = Any

MODEL = """g (float[N,8,H,W] x) => (float[N,8,A,B] y) {
    a = Conv (x, w1)
    r = Resize <mode = "nearest", %s> (a, , factors)
    c = Conv (r, w2)
    s = Softplus(c)
    y = Conv (s, w3)
}"""
WEIGHTS = {"w1": (16, 8, 1, 1), "w2": (16, 16, 1, 1), "w3": (8, 16, 1, 1)}
FLOOR = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
HALF = 'coordinate_transformation_mode = "half_pixel", nearest_mode = "round_prefer_floor"'


MIXED = MODEL.replace("H,W", "6,7").replace("A,B", "H,W")


def factors(rows: float, columns: float) -> np.ndarray:
    return np.array([1, 1, rows, columns], np.float32)


@pytest.mark.parametrize("mode", [FLOOR, HALF])
@pytest.mark.parametrize("size", [(2, 2), (1, 3), (4, 1), (3, 2)])
def test_no_resize_is_left(
    build: Build, samples: Samples, census: Census, error: Error, mode: str, size: tuple[int, int]
) -> None:
    text = MODEL if size[0] == size[1] else MIXED
    model = build(text % mode, **WEIGHTS, factors=factors(*size))
    before = model.clone()
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 2, 8, 6, 7))
    assert rewrites(ctx)["quant-resize"] == 1
    ran = census(model)
    assert "Resize" not in ran
    assert ran["Transpose"] == 2  # to channels last and back, for both convolutions
    assert 0 < error(before, model) < 0.03


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (2, 1), (1, 4), (2, 3)])
def test_integers_are_repeated(size: tuple[int, int]) -> None:
    model = parse(
        f"g (uint8[N,5,6,7] x) => (uint8[N,5,H,W] y) "
        f'<float[4] f = {{1, 1, {size[0]}, {size[1]}}}> {{ y = Resize <mode="nearest", {FLOOR}>'
        "(x, , f) }"
    )
    node = model.graph[0]
    assert repeats(node) == size
    found = repeat(node, model.graph.inputs[0], size)
    replace_value(node.outputs[0], found)
    model.graph.remove(node, safe=True)
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 7)).astype(np.uint8)
    with onnxruntime.session(model) as session:
        actual = session.run({"x": x})["y"]
    np.testing.assert_array_equal(actual, x.repeat(size[0], axis=2).repeat(size[1], axis=3))


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        (FLOOR, (1.5, 2)),
        (FLOOR, (16, 16)),
        (FLOOR, (1, 2)),  # of a width that is not known
        (FLOOR.replace("floor", "ceil"), (2, 2)),
        (FLOOR.replace("asymmetric", "align_corners"), (2, 2)),
    ],
)
def test_what_is_no_repetition_stays(build: Build, mode: str, size: tuple[float, float]) -> None:
    from burnish.passes.shapes import infer_shapes

    model = build(MODEL % mode, **WEIGHTS, factors=factors(*size))
    infer_shapes(model)
    node = next(node for node in model.graph if node.op_type == "Resize")
    assert repeats(node) is None
