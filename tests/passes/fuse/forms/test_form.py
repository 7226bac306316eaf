# SPDX-License-Identifier: Apache-2.0
"""Sizes as inference writes them are read as linear forms."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.fuse.forms.form import Form, size_form


def test_sums_of_names_with_factors_are_read() -> None:
    assert size_form(3) == Form(constant=3)
    assert size_form(ir.SymbolicDim("past + 2*new + 1")) == Form.of({"past": 1, "new": 2}, 1)
    assert size_form(ir.SymbolicDim("floor(past/2)")) is None
