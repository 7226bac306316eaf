# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of values, from the onnx-shape-inference library."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, cast

import onnx_ir as ir

from burnish.passes import products
from burnish.passes.products import Size
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
    if not _has_unknown(model) or _infer_static(model):
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
        None if isinstance(dim, ir.SymbolicDim) and made_up & _names_of(str(dim)) else dim
        for dim in value.shape.dims
    ]
    value.shape = ir.Shape(dims)


# --- the library, corrected where it guesses ------------------------------------------------------


@functools.cache
def _library() -> ModuleType:
    """Import the shape inference library, and correct it where it guesses.

    A rule that trusts a guessed shape removes an operator that is needed. So:
    - Of two sizes of different names, broadcasting takes the first; but that one may be 1 where
      the other is not. Here the result is a size that is neither, unless one is cut from the other.
    - Slice takes axes of unknown size for long enough. Here the result is of unknown size.
    - What `_GUESSED` lists is forgotten again.
    - A fill has the sizes it is asked for, also where they are computed.
    - What a Loop hands from round to round may change its shape; see `burnish.passes.loops`.

    And made quicker: sizes that are products are multiplied and divided as such.
    """
    import onnx_shape_inference as library
    from onnx_shape_inference import _broadcast, _context, _engine
    from onnx_shape_inference._ops import _utils

    from burnish.passes import loops

    library.registry.collect()
    _engine._constraints.collect_symbol_names = _names_in
    _context.ShapeInferenceContext._maybe_record_anchor_equality = _record_equality
    _engine._propagate_types_to_subgraph_inputs = functools.partial(
        loops.enter, _engine._propagate_types_to_subgraph_inputs, _engine._process_graph
    )
    products.quicken(_utils)
    broadcast_dim = _broadcast._broadcast_dim

    def sound_broadcast_dim(a: Size, b: Size) -> Any:
        if a == b:
            return a
        if isinstance(a, ir.SymbolicDim) and isinstance(b, ir.SymbolicDim):
            if _is_cut(str(a), str(b)):
                return b
            if _is_cut(str(b), str(a)):
                return a
            return ir.SymbolicDim(_either(*sorted((str(a), str(b)))))
        return broadcast_dim(a, b)

    _broadcast._broadcast_dim = sound_broadcast_dim
    corrected: dict[tuple[str, str], Callable[[_Infer, Any, ir.Node], None]] = {
        ("", "ConstantOfShape"): _sized_fill,
        ("", "Loop"): lambda _, context, node: loops.leave(context, node),
        ("", "Slice"): _sound_slice,
    }
    for operator in (*corrected, *_GUESSED):
        for since in set(library.registry.version_boundaries(*operator)):
            infer = library.registry.get(*operator, version=since)
            sound = corrected.get(operator, _sound)
            library.registry.register(*operator, since)(functools.partial(sound, infer))
    return cast(ModuleType, library)


def _record_equality(context: Any, declared: Size, inferred: Size) -> None:
    """Remember that a declared size has another name where it is inferred; no SymPy needed."""
    if isinstance(declared, int) or isinstance(inferred, int):
        return
    if declared.value is None or inferred.value is None or declared == inferred:
        return
    names = [name for name in _names_of(declared.value) if name.isidentifier()]
    if not all(map(context.is_generated_symbol, names)):
        context.add_symbolic_equality(inferred.value, declared.value)


def _names_in(graph: ir.Graph) -> set[str]:
    """Return all names in the sizes of a graph and its subgraphs, which no new size may bear."""
    texts = {
        str(dim)
        for each in (graph, *graph.subgraphs())
        for values in (each.inputs, *(node.outputs for node in each))
        for value in values
        if value.shape is not None
        for dim in value.shape.dims
        if not isinstance(dim, int)
    }
    return set().union(*map(_names_of, texts))


def _names_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _is_cut(cut: str, whole: str) -> bool:
    """Whether a size is another one, cut at a constant, such as the positions of a long table.

    Where the two broadcast, nothing was cut: neither would be 1, and they would differ.
    """
    found = _CUT.fullmatch(cut)
    return found is not None and int(found[1]) > 0 and found[2] == whole


_CUT = re.compile(r"Min\((\d+), (.+)\)")


def _either(first: str, second: str) -> str:
    """Name the size that two sizes broadcast to.

    A plain symbol, though of valid operands the larger one wins: reasoning about nested maxima
    takes longer than everything else. Long names are cut short, or they would grow layer by layer.
    """
    name = f"{first}_or_{second}"
    if name.isidentifier() and len(name) <= _LONGEST_NAME:
        return name
    return f"_either_{hashlib.blake2s(name.encode(), digest_size=6).hexdigest()}"


_LONGEST_NAME = 40
_Infer = Callable[[Any, ir.Node], None]


def _sound(infer: _Infer, context: Any, node: ir.Node) -> None:
    before = [value.shape for value in node.outputs]
    infer(context, node)
    if _GUESSED[node.domain, node.op_type](node):
        for value, shape in zip(node.outputs, before, strict=True):
            value.shape = shape


def _sized_fill(infer: _Infer, context: Any, node: ir.Node) -> None:
    infer(context, node)
    sizes = None if node.inputs[0] is None else context.get_symbolic_value(node.inputs[0])
    if node.outputs[0].shape is None and sizes is not None:
        context.set_shape(node.outputs[0], ir.Shape(list(sizes)))


def _sound_slice(infer: _Infer, context: Any, node: ir.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    before = result.shape
    infer(context, node)
    if data is None or not data.shape or not result.shape:
        return
    for axis, (there, left) in enumerate(zip(data.shape, result.shape, strict=True)):
        known = None if before is None else before[axis]
        guessed = isinstance(there, ir.SymbolicDim) and isinstance(left, int) and left > 0
        if guessed and not isinstance(known, int):
            dims = list(result.shape)
            dims[axis] = context.new_symbolic_dim() if known is None else known
            result.shape = ir.Shape(dims)


def _always(_: ir.Node) -> bool:
    return True


def _expands_the_unknown(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].shape is None


def _branch_is_unknown(node: ir.Node) -> bool:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    return any(value.shape is None for branch in branches for value in branch.outputs)


def _keeps_aspect_ratio(node: ir.Node) -> bool:
    return node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch"


def _squeezes_unknown_axes(node: ir.Node) -> bool:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        known = ir.convenience.get_const_tensor(axes)
        # No axes are all of size 1 to the runtime, and none to the library.
        return known is None or not known.size
    data, attribute = node.inputs[0], node.attributes.get("axes")
    static = data is not None and data.shape is not None and data.shape.is_static()
    return not static if attribute is None else not attribute.value


def _extracts_by_many_axes(node: ir.Node) -> bool:
    """Whether indices have several axes, which the runtime takes for one; or features have one."""
    features, indices = node.inputs
    if features is None or features.shape is None or indices is None or indices.shape is None:
        return False
    return len(features.shape) < 2 or len(indices.shape) != 1


# Operator -> whether the library guesses the shapes of its outputs. The tests hold what it infers
# for every operator case of the onnx package against what the runtime computes.
_GUESSED: dict[tuple[str, str], Callable[[ir.Node], bool]] = {
    ("ai.onnx.ml", "ArrayFeatureExtractor"): _extracts_by_many_axes,
    ("", "Expand"): _expands_the_unknown,
    ("", "If"): _branch_is_unknown,
    ("", "MelWeightMatrix"): _always,
    ("", "Resize"): _keeps_aspect_ratio,
    ("", "Squeeze"): _squeezes_unknown_axes,
    ("", "Unique"): lambda node: "axis" in node.attributes,
}
