# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of values, from the onnx-shape-inference library."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import onnx_ir as ir

from burnish.passes.inference import load_library, names_in_size
from burnish.passes.report import all_graphs

_INFERRED = "burnish.shapes_inferred"


def infer_shapes(model: ir.Model) -> None:
    """Give every value of `model` the type and symbolic shape that can be inferred.

    Runs once a model: rules keep types and shapes of what they make up to date. A pass that leaves
    values without shapes calls `forget_shapes` when it is done.
    """
    if model.meta.get(_INFERRED):
        return
    model.meta[_INFERRED] = True
    if not _has_unknown(model) or _infer_static(model):
        return
    library = load_library()
    # A shape that cannot be inferred makes rules refuse; it is no reason to fail a build.
    with contextlib.suppress(Exception):
        # Renaming sizes after what the outputs declare takes time quadratic in their number.
        library.infer_symbolic_shapes(model, warn_on_missing=False, adopt_declared_symbols=False)
    # The library's notes to itself would otherwise be written to the file.
    for graph in all_graphs(model):
        for node in graph:
            for value in node.outputs:
                value.metadata_props.pop(library.SYM_DATA_KEY, None)
                _name_numbers(value)


def _infer_static(model: ir.Model) -> bool:
    """Infer shapes of which all sizes are numbers, node by node; returns whether that was all.

    Reasoning about symbols, which the library does for a model as a whole, takes longer to load
    than a small model takes to optimize.
    """
    graphs = list(all_graphs(model))
    if len(graphs) > 1 or not all(map(_is_static, model.graph.inputs)):
        return False
    for node in model.graph:
        infer_node(node, model.graph.opset_imports)
        if not all(_is_static(value) for value in node.outputs if value.name):
            return False
    return not _has_unknown(model)


def _is_static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _name_numbers(value: ir.Value) -> None:
    """Make sizes numbers that the library found to be numbers but holds as symbols."""
    if value.shape is None or not any(_is_number(dim) for dim in value.shape.dims):
        return
    value.shape = ir.Shape([int(str(dim)) if _is_number(dim) else dim for dim in value.shape.dims])


def _is_number(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None and dim.value.isdecimal()


def shapes_are_inferred(model: ir.Model) -> bool:
    """Whether `infer_shapes` would do nothing."""
    return bool(model.meta.get(_INFERRED))


def forget_shapes(model: ir.Model) -> None:
    """Make the next `infer_shapes` run again."""
    model.meta.pop(_INFERRED, None)


def _has_unknown(model: ir.Model) -> bool:
    return any(
        value.type is None or value.shape is None or None in value.shape.dims
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
    library = load_library()
    infer = library.registry.get(
        node.domain, node.op_type, version=opset_imports.get(node.domain, 1)
    )
    if infer is None:
        return
    context = library.ShapeInferenceContext(opset_imports)
    # Any failure leaves the shape unknown, which is always safe.
    with contextlib.suppress(Exception):
        infer(context, node)
    for value in node.outputs:
        _forget_names(value, context.generated_dim_names)
        _name_numbers(value)
        value.metadata_props.pop(library.SYM_DATA_KEY, None)


def _forget_names(value: ir.Value, made_up: frozenset[str]) -> None:
    """Make sizes unknown whose names were made up for one node: others may bear the same."""
    if value.shape is None or not made_up:
        return
    dims = [
        None if isinstance(dim, ir.SymbolicDim) and made_up & names_in_size(str(dim)) else dim
        for dim in value.shape.dims
    ]
    value.shape = ir.Shape(dims)
