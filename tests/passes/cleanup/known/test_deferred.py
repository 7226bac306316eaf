# SPDX-License-Identifier: Apache-2.0
"""What is left to the runtime is computed together, a few large results at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from burnish.passes.cleanup import evaluate
from burnish.passes.cleanup.known import deferred
from burnish.passes.cleanup.known.known import Known
from burnish.testing import assert_same_outputs, parse, run_pass


def _standardized(count: int, size: int) -> ir.Model:
    """Return a chain of Muls with weights of which each goes through four values of its size."""
    steps = "".join(
        f"a{i} = Erf(w{i})  b{i} = Sigmoid(a{i})  c{i} = Erf(b{i})  d{i} = Mul(c{i}, a{i})  "
        f"y{i + 1} = Mul(y{i}, d{i})  "
        for i in range(count)
    )
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal(size, np.float32) for i in range(count)}
    text = f"g (float[{size}] y0) => (float[{size}] y{count}) {{ {steps} }}"
    return parse(text, **weights)


def _computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Record, for each session, the bytes of its results."""
    sessions: list[list[int]] = []
    together = evaluate.evaluate_together

    def recorded(*args: Any) -> dict[ir.Value, np.ndarray]:
        found = together(*args)
        sessions.append([array.nbytes for array in found.values()])
        return found

    monkeypatch.setattr(deferred, "evaluate_together", recorded)
    return sessions


def test_what_is_on_the_way_to_a_weight_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = _computed(monkeypatch)
    before = _standardized(3, 1000)
    original = before.clone()
    run_pass("fold", before)
    assert sessions == [[4000] * 3]
    assert [node.op_type for node in before.graph] == ["Mul"] * 3
    assert_same_outputs(original, before)


def test_large_weights_are_computed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "_BATCH", 10_000)
    sessions = _computed(monkeypatch)
    before = _standardized(5, 1000)
    original = before.clone()
    run_pass("fold", before)
    assert sessions == [[4000] * 2, [4000] * 2, [4000]]
    assert_same_outputs(original, before)


def test_results_do_not_keep_an_arena_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    arenas: list[bool] = []
    load = onnxruntime.InferenceSession

    def watched(model: bytes, options: onnxruntime.SessionOptions, **more: Any) -> Any:
        arenas.append(options.enable_cpu_mem_arena)
        return load(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    run_pass("fold", _standardized(1, 10))
    assert arenas == [False]


def test_what_a_result_that_stays_is_made_of_is_computed_with_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = _computed(monkeypatch)
    before = parse(
        "g (float[400,400] x) => (float[400,400] y, float[400,400] z) <int64[2] s = {400, 400}> "
        "{ a = Erf(w)  b = Sigmoid(a)  c = Expand(b, s)  d = Erf(c)  y = Mul(x, d)  e = Erf(v) "
        "z = Mul(x, e) }",
        w=np.linspace(-1, 1, 400, dtype=np.float32),
        v=np.linspace(-1, 1, 400, dtype=np.float32),
    )
    original = before.clone()
    run_pass("fold", before)
    assert sessions == [[1600] * 2]
    assert [node.op_type for node in before.graph] == ["Expand", "Erf", "Mul", "Mul"]
    assert_same_outputs(original, before)


def test_what_no_one_asked_for_is_computed_when_it_is_needed_after_all() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> "
        "{ a = Erf(w)  b = Sigmoid(a)  y = Mul(x, b) }"
    )
    a, b, _ = (node.outputs[0] for node in model.graph)
    found = Known(model.graph, model.opset_imports, budget=0)
    found.run_deferred([b])
    assert list(found.arrays) == [b]
    np.testing.assert_allclose(found.result(a), [0.842701, 0.995322], atol=1e-6)
