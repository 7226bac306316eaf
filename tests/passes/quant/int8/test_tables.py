# SPDX-License-Identifier: Apache-2.0
"""Int8 embedding tables: which, how accurate, how small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.passes.quant.int8.tables import QuantTables
from burnish.testing import refusals, rewrites, run_pass, structural_difference

Build = Any

TEXT = "g (int64[N,S] i) => (float[N,S,64] y) {{ y = Gather{options}(t, i) }}"


def test_rows_have_a_scale_each(build: Build) -> None:
    rng = np.random.default_rng(0)
    # Magnitudes of rows differ: a single scale would lose the small ones.
    table = rng.normal(0, 1, (2000, 64)) * np.geomspace(1e-3, 1e3, 2000)[:, None]
    model = build(TEXT.format(options=""), t=table.astype(np.float32))
    before = model.clone()
    ctx = run_pass(QuantTables(), model)
    assert rewrites(ctx) == {"quant-gather": 1}
    assert {n: v.const_value.nbytes for n, v in model.graph.initializers.items()} == {
        "t_int8": 2000 * 64,
        "t_scale": 2000 * 4,
    }
    indices = rng.integers(0, 2000, (3, 50))
    indices[0, 0] = -1  # from the end
    with onnxruntime.session(before) as old, onnxruntime.session(model) as new:
        expected, actual = old.run({"i": indices})["y"], new.run({"i": indices})["y"]
    assert actual.shape == expected.shape
    # Half a step of 127 from the largest magnitude of the row.
    bound = np.abs(expected).max(axis=-1, keepdims=True) / 254 * (1 + 1e-4)
    assert (np.abs(actual - expected) <= bound).all()


def test_a_table_of_two_lookups_is_stored_once(build: Build) -> None:
    text = """g (int64[N] i, int64[N] j) => (float[N,64] y, float[N,64] z) {
        y = Gather(t, i)
        z = Gather(t, j)
    }"""
    model = build(text, t=(2000, 64))
    run_pass(QuantTables(), model)
    assert set(model.graph.initializers) == {"t_int8", "t_scale"}


def test_a_small_table_or_an_integer_one_is_no_news(build: Build) -> None:
    for table in ((100, 64), np.zeros((2000, 64), np.int64)):
        text = "g (int64[N] i) => (float[N,64] y) { g = Gather(t, i) y = Cast <to = 1> (g) }"
        model = build(text, t=table)
        ctx = run_pass(QuantTables(), model)
        assert rewrites(ctx) == {}
        assert refusals(ctx) == {}


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ("y = Gather <axis = 1> (t, i)", (64, 2000), "along another axis"),
        ("y = Gather(t, i)", (2000, 8, 8), "its table has rank 3, not 2"),
        ("y = Gather(t, i) z = Neg(t)", (2000, 64), "its table is used by other operators too"),
        ("y = Gather(t, i)", np.full((2000, 64), np.nan, np.float32), "its table is not finite"),
        ("y = Gather(t, i)", (2000, 64), "excluded by name"),
    ],
)
def test_what_stays_float(build: Build, body: str, shape: Any, reason: str) -> None:
    outputs = "float[A,B] y, float[C,D] z" if "z =" in body else "float[A,B] y"
    if reason.startswith("its table has rank"):
        outputs = "float[A,B,C] y"
    model = build(f"g (int64[N] i) => ({outputs}) {{ {body} }}", t=shape)
    before = model.clone()
    ctx = run_pass(QuantTables(exclude=("y",) if "excluded" in reason else ()), model)
    assert any(reason in text for text in refusals(ctx)["quant-gather"])
    assert structural_difference(before, model) is None


def test_twice_is_once(build: Build) -> None:
    model = build(TEXT.format(options=""), t=(2000, 64))
    run_pass(QuantTables(), model)
    assert rewrites(run_pass(QuantTables(), model)) == {}
