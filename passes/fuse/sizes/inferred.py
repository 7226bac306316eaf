# SPDX-License-Identifier: Apache-2.0
"""Shapes of what is being built, for rewrites that ask for them before they are done."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.rule import Builder
from burnish.passes.shapes import infer_node


def inferred(op: Builder, value: ir.Value) -> ir.Value:
    """Return a value that was just built, its shape and type inferred where they can be.

    Args:
        op: Built it.
        value: What a node gives that is in no graph yet.
    """
    node = value.producer()
    assert node is not None
    infer_node(node, op.opset_imports)
    return value
