# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of values, from the onnx-shape-inference library."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

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
    from onnx_shape_inference import SYM_DATA_KEY, infer_symbolic_shapes

    # A shape that cannot be inferred makes rules refuse; it is no reason to fail a build.
    with contextlib.suppress(Exception), _sound_broadcasting():
        infer_symbolic_shapes(model, warn_on_missing=False)
    # The library's notes to itself would otherwise be written to the file.
    for graph in all_graphs(model):
        for node in graph:
            for value in node.outputs:
                value.metadata_props.pop(SYM_DATA_KEY, None)


@contextlib.contextmanager
def _sound_broadcasting() -> Iterator[None]:
    """Within the context, two sizes of different names broadcast to a size that is neither.

    The library takes the first of the two. But that one may be 1 where the other is not, and a
    rule that trusts the name removes an Expand that is needed.
    """
    from onnx_shape_inference import _broadcast

    original = _broadcast._broadcast_dim

    def broadcast(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> Any:
        if isinstance(a, ir.SymbolicDim) and isinstance(b, ir.SymbolicDim) and a != b:
            # Of valid operands, the larger size wins.
            names = sorted((str(a), str(b)))
            return ir.SymbolicDim(f"max({names[0]}, {names[1]})")
        return original(a, b)

    _broadcast._broadcast_dim = broadcast
    try:
        yield
    finally:
        _broadcast._broadcast_dim = original


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
    from onnx_shape_inference import SYM_DATA_KEY, ShapeInferenceContext, registry

    registry.collect()
    infer = registry.get(node.domain, node.op_type, version=opset_imports.get(node.domain, 1))
    if infer is None:
        return
    context = ShapeInferenceContext(opset_imports)
    # Any failure leaves the shape unknown, which is always safe.
    with contextlib.suppress(Exception), _sound_broadcasting():
        infer(context, node)
    for value in node.outputs:
        _forget_names(value, context.generated_dim_names)
        value.metadata_props.pop(SYM_DATA_KEY, None)


def _forget_names(value: ir.Value, made_up: frozenset[str]) -> None:
    """Make sizes unknown whose names were made up for one node: others may bear the same."""
    if value.shape is None or not made_up:
        return
    dims = [
        None if isinstance(dim, ir.SymbolicDim) and dim.free_symbols() & made_up else dim
        for dim in value.shape.dims
    ]
    value.shape = ir.Shape(dims)
