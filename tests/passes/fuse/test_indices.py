# SPDX-License-Identifier: Apache-2.0
"""Gathering all elements in order is seen through; numbers are compared exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes.fuse.indices import gather_all
from burnish.testing import assert_refuses, assert_same_outputs, parse, run_pass

_RANGES = (
    "s = Shape(x) {batch} = Gather(s, first) w = Gather(s, second) bw = Unsqueeze(w, front)"
    "i = Range(zero, {rows}, one) j = Range(zero, w, {step})"
    "ii = Unsqueeze(i, rest) jj = Unsqueeze(j, before)"
)
_CONSTANTS = (
    "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 first = {0}, int64 second = {1},"
    "int64[1] front = {0}, int64[3] rest = {1, 2, 3}, int64[3] before = {0, 1, 2},"
    "int64[1] last = {-1}, int64[1] flat = {-1}, int64[1] three = {3}"
)
_ND = (  # as torch's dynamo exporter writes it
    "m = Max(ii, jj) t = Shape(m) ei = Expand(ii, t) ej = Expand(jj, t) ui = Unsqueeze(ei, last)"
    "uj = Unsqueeze(ej, last) k = Concat<axis=-1>({order}) y = GatherND(x, k)"
)
_FLAT = (  # and as its TorchScript exporter does
    "a = Mul(ii, {width}) k = Add(jj, a) f = {flatten} y = Gather<axis=0>(f, k)"
)


def _model(gather: str, **given: str) -> ir.Model:
    fill = {
        "batch": "h",
        "rows": "h",
        "step": "one",
        "order": "ui, uj",
        "width": "bw",
        "flatten": "Flatten<axis=2>(x)",
    } | given
    text = (_RANGES + gather).format(**fill)
    return parse(f"g (float[B,S] x, int64 n) => (float[] y) <{_CONSTANTS}> {{ {text} }}")


@pytest.mark.parametrize(
    "model",
    [_model(_ND), _model(_FLAT), _model(_FLAT, flatten="Reshape(x, flat)")],
    ids=["GatherND", "Gather of a column", "Gather of a row"],
)
def test_all_elements_in_order_are_the_tensor(model: ir.Model) -> None:
    original = model.clone()
    run_pass(gather_all, model)
    run_pass("dead-code", model)
    assert [node.op_type for node in model.graph] == ["Unsqueeze"]
    feeds = {"x": np.arange(15, dtype=np.float32).reshape(3, 5), "n": np.array(3)}
    assert_same_outputs(original, model, feeds=feeds)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_model(_ND, rows="n"), "the indices do not count"),
        (_model(_ND, rows="two"), "the indices do not count"),
        (_model(_ND, step="two"), "the indices do not count"),
        (_model(_ND, order="uj, ui"), "the axes are not in order"),
        (_model(_FLAT, width="three"), "do not count through all of it"),
        (_model(_FLAT, rows="w"), "do not count through all of it"),
        (_model(_FLAT, width="one"), "do not count through all of it"),
    ],
)
def test_others_are_gathered(model: ir.Model, reason: str) -> None:
    assert_refuses(gather_all, model, reason)
