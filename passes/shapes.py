# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of values, from the onnx-shape-inference library."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, cast

import onnx_ir as ir

from burnish.passes.report import all_graphs

_INFERRED = "burnish.shapes_inferred"
_Size = int | ir.SymbolicDim
_Infer = Callable[[Any, ir.Node], None]

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
    library = _library()
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


def _name_numbers(value: ir.Value) -> None:
    """Make sizes numbers that the library found to be numbers but holds as symbols."""
    if value.shape is None or not any(_is_number(dim) for dim in value.shape.dims):
        return
    value.shape = ir.Shape([int(str(dim)) if _is_number(dim) else dim for dim in value.shape.dims])


def _is_number(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None and dim.value.isdecimal()


@functools.cache
def _library() -> ModuleType:
    """Import the shape inference library, and correct it where it guesses.

    A rule that trusts a guessed shape removes an operator that is needed. So:
    - Of two sizes of different names, broadcasting takes the first; but that one may be 1 where
      the other is not. Here the result is a size that is neither.
    - Slice takes axes of unknown size for long enough. Here the result is of unknown size.
    - Expand takes the target for the result where nothing is known of the data.
    - Squeeze without axes, or with axes it cannot read, keeps every size that is not known to be 1.
      Here, as there, nothing is known of the result then.
    """
    import onnx_shape_inference as library
    from onnx_shape_inference import _broadcast

    library.registry.collect()
    broadcast_dim = _broadcast._broadcast_dim

    def sound_broadcast_dim(a: _Size, b: _Size) -> Any:
        if isinstance(a, ir.SymbolicDim) and isinstance(b, ir.SymbolicDim) and a != b:
            # Of valid operands, the larger size wins.
            names = sorted((str(a), str(b)))
            return ir.SymbolicDim(f"max({names[0]}, {names[1]})")
        return broadcast_dim(a, b)

    def sound_slice(infer: _Infer, context: Any, node: ir.Node) -> None:
        declared = node.outputs[0].shape
        infer(context, node)
        data, result = node.inputs[0], node.outputs[0]
        if declared is None and data is not None and data.shape and result.shape:
            dims = zip(data.shape.dims, result.shape.dims, strict=True)
            result.shape = ir.Shape(
                context.new_symbolic_dim()
                if isinstance(there, ir.SymbolicDim) and isinstance(left, int) and left > 0
                else left
                for there, left in dims
            )

    def sound_expand(infer: _Infer, context: Any, node: ir.Node) -> None:
        data = node.inputs[0]
        if data is not None and data.shape is None:
            context.set_shape_and_dtype(node.outputs[0], None, data.dtype)
        else:
            infer(context, node)

    def sound_squeeze(infer: _Infer, context: Any, node: ir.Node) -> None:
        data = node.inputs[0]
        axes = node.inputs[1] if len(node.inputs) > 1 else None
        written = "axes" in node.attributes
        known = ir.convenience.get_const_tensor(axes) is not None if axes else written
        static = data is not None and data.shape is not None and data.shape.is_static()
        if known or (axes is None and static):
            infer(context, node)
        elif data is not None:
            context.set_shape_and_dtype(node.outputs[0], None, data.dtype)

    _broadcast._broadcast_dim = sound_broadcast_dim
    corrections = {"Expand": sound_expand, "Slice": sound_slice, "Squeeze": sound_squeeze}
    for op_type, sound in corrections.items():
        for since in set(library.registry.version_boundaries("", op_type)):
            infer = library.registry.get("", op_type, version=since)
            library.registry.register("", op_type, since)(functools.partial(sound, infer))
    return cast(ModuleType, library)


def shapes_are_inferred(model: ir.Model) -> bool:
    """Whether `infer_shapes` would do nothing."""
    return bool(model.meta.get(_INFERRED))


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
    library = _library()
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
        None if isinstance(dim, ir.SymbolicDim) and dim.free_symbols() & made_up else dim
        for dim in value.shape.dims
    ]
    value.shape = ir.Shape(dims)
