# SPDX-License-Identifier: Apache-2.0
"""Sparse initializers in files: the same model, smaller, and one that the runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import burnish
from burnish.backends import onnxruntime
from burnish.backends.onnxfile import save
from burnish.testing import parse, run_pass


def layer(dtype: Any = np.float32, size: int = 64) -> ir.Model:
    kind = {"float32": "float", "float16": "float16", "float64": "double"}[np.dtype(dtype).name]
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    text = f"g ({kind}[N,{size}] x) => ({kind}[N,{size}] y)"
    return parse(f"{text} {{ t = MatMul(x, w)  y = MatMul(t, v) }}", w=w, v=v)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_file_is_smaller_and_runs_alike(dtype: Any, tmp_path: Path) -> None:
    sizes = {}
    for store in ("dense", "sparse"):
        model = layer(dtype)
        run_pass(f"prune{{sparsity=0.9 store={store}}}", model)
        path = tmp_path / f"{store}.onnx"
        save(model, path)
        sizes[store] = path.stat().st_size
    onnx.checker.check_model(str(path))
    assert sizes["sparse"] < 0.75 * sizes["dense"]
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(dtype)
    found = []
    for store in sizes:
        with onnxruntime.session(tmp_path / f"{store}.onnx") as session:
            found.append(session.run({"x": x})["y"])
    np.testing.assert_array_equal(found[0], found[1])
    again = burnish.load(path).graph.initializers["w"].const_value
    kept = model.graph.initializers["w"].const_value
    assert again is not None
    assert kept is not None
    assert again.numpy().tobytes() == kept.numpy().tobytes()


@pytest.mark.parametrize("sparsity", [0.5, 0.66, 1.0])
def test_what_would_not_be_smaller_stays_dense(sparsity: float, tmp_path: Path) -> None:
    model = layer()
    run_pass(f"prune{{sparsity={sparsity} store=sparse}}", model)
    save(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert sorted(each.name for each in proto.graph.initializer) == ["v", "w"]
    assert not proto.graph.sparse_initializer


def test_weights_in_files_of_their_own_stay_there(tmp_path: Path) -> None:
    model = layer()
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    loaded = burnish.load(tmp_path / "m.onnx")
    run_pass("prune{sparsity=0.9 store=sparse exclude=v}", loaded)
    save(loaded, tmp_path / "out.onnx")
    with onnxruntime.session(tmp_path / "out.onnx") as session:
        session.run({"x": np.zeros((1, 64), np.float32)})
    assert not onnx.load(tmp_path / "out.onnx").graph.sparse_initializer


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model = layer()
        run_pass("prune{sparsity=0.9 store=sparse}", model)
        save(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
