# SPDX-License-Identifier: Apache-2.0
"""Whole numbers are read as linear forms of their indices and of sizes."""

from __future__ import annotations

import pytest

from burnish.passes.fuse.forms.form import Form
from burnish.passes.fuse.forms.numbers import form_of
from burnish.passes.shapes import infer_shapes
from burnish.testing import parse


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("y = Range(zero, N, one)", Form.of({-1: 1})),
        ("i = Range(zero, N, one)  y = Add(i, N)", Form.of({-1: 1, "n": 1})),
        ("i = Range(zero, N, one)  y = Slice(i, first, last)", Form.of({-1: 1}, 3)),
        ("i = Range(zero, N, one)  y = Mul(i, N)", None),
    ],
)
def test_positions_are_read(body: str, form: Form | None) -> None:
    model = parse(
        "g (float[n] x) => (int64[m] y) <int64 zero = {0}, int64 one = {1}, int64[1] first = {3},"
        f" int64[1] last = {{1000000}}> {{ s = Shape(x)  N = Squeeze(s)  {body} }}"
    )
    model.graph.outputs[0].shape = None  # to be inferred, not declared
    infer_shapes(model)
    assert form_of(model.graph.outputs[0]) == form


def test_what_is_not_there_is_not_read() -> None:
    assert form_of(None) is None
