# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of values, from the onnx-shape-inference library."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

import onnx_ir as ir

from burnish.passes.report import all_graphs

_INFERRED = "burnish.shapes_inferred"

# The library logs each operator it does not know; a value without a shape is no news to a user.
logging.getLogger("onnx_shape_inference").addHandler(logging.NullHandler())


def infer_shapes(model: ir.Model) -> None:
    """Give every value of `model` the type and symbolic shape that can be inferred.

    Runs once a model: rules keep types and shapes of what they make up to date. A pass that leaves
    values without shapes calls `forget_shapes` when it is done.
    """
    if model.meta.get(_INFERRED):
        return
    model.meta[_INFERRED] = True
    if not _has_unknown(model):
        return
    from onnx_shape_inference import infer_symbolic_shapes

    # A shape that cannot be inferred makes rules refuse; it is no reason to fail a build.
    with contextlib.suppress(Exception):
        infer_symbolic_shapes(model, warn_on_missing=False)


def forget_shapes(model: ir.Model) -> None:
    """Make the next `infer_shapes` run again."""
    model.meta.pop(_INFERRED, None)


def _has_unknown(model: ir.Model) -> bool:
    return any(
        value.shape is None or value.type is None
        for graph in all_graphs(model)
        for node in graph
        for value in node.outputs
        if value.name
    )


# Their sizes are quotients of symbols, by far the slowest thing to infer.
_WINDOWED = frozenset({"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"})


def infer_node(
    node: ir.Node, opset_imports: Mapping[str, int], like: ir.Value | None = None
) -> None:
    """Infer the outputs of one new node from its inputs, where the library knows the operator.

    Args:
        node: A node that is not in a graph yet.
        opset_imports: Version of each domain.
        like: What its first output will replace; saves the work where that is the slowest.
    """
    if like is not None and like.shape and len(node.outputs) == 1 and node.op_type in _WINDOWED:
        node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
        return
    from onnx_shape_inference import ShapeInferenceContext, registry

    registry.collect()
    infer = registry.get(node.domain, node.op_type, version=opset_imports.get(node.domain, 1))
    if infer is None:
        return
    # Any failure leaves the shape unknown, which is always safe.
    with contextlib.suppress(Exception):
        infer(ShapeInferenceContext(opset_imports), node)
